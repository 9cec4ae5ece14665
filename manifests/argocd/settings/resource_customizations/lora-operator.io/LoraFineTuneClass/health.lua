-- A class is an offer: it has no status, and what is wrong with it is told by the runs that name it.
return { status = "Healthy", message = "Offered." }
