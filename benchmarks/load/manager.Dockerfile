# A rival's manager around its static program, where its own manifests expect it.
FROM scratch
ARG PROGRAM
COPY ${PROGRAM} /manager
USER 65532:65532
ENTRYPOINT ["/manager"]
