"""A fuzzer of inference requests against a real server: `python -m fuzz --help`.

From the inside out: `wire` has requests and responses as bytes, `samples` the data of valid requests, `drafts` what is
common to `http_requests` and `grpc_requests`, which have valid requests and their mutations, `known` what is known to
end a server, `serving` the server under test, `oracle` what a response must look like, `campaign` the run, `report` its
results, `replaying` recorded requests.
"""
