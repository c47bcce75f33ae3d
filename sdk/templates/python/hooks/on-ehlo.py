class OnEhlo(exports.OnEhlo):
    def on_ehlo(self, session, name) -> Answer:
        # May reject, defer, disconnect, accept, delay, or withdraw an extension.
        return passed()
