# Debian with Python and the certificate bundle of the machine it was made on, for package installs inside builds.
FROM scratch
ADD rootfs.tar /
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    LANG=C.UTF-8
# What it was made from; it is made again when that changes.
ARG CONTENTS
LABEL contents=${CONTENTS}
CMD ["/bin/bash"]
