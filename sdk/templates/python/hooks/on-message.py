class OnMessage(exports.OnMessage):
    def on_message(self, session, message) -> Answer:
        # May reject, defer, discard, accept, edit, quarantine, route, sign or tag. Looking into the message needs the grant `read-message`.
        return passed()
