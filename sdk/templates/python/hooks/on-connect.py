class OnConnect(exports.OnConnect):
    def on_connect(self, session) -> Answer:
        # May reject, defer, disconnect, accept or delay. The client waits for the banner.
        return passed()
