"""The bidirectional handshake, as specified in `data/vectors/SPEC.md` (section numbers in docstrings are its).

source, destination    the two roles, with the tables of what is legal when; session: what both do alike
outgoing, incoming     the guest's data at each of them
messages, wire, body   the messages, how a body follows from one, and strict JSON
frames                 preface and frames, the bytes around every message
features, agreement    negotiation and what follows from it; inventory: the verdict
binding, manifest      transcript, key and MACs; the facts that stand before a saved stream
"""
