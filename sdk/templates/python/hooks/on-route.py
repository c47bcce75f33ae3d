class OnRoute(exports.OnRoute):
    def on_route(self, session, message) -> Answer:
        # May route, choose source address and TLS, hold (quarantine), defer, fail (reject) or discard.
        return passed()
