class OnMessage(exports.OnMessage):
    def on_message(self, session, message) -> Answer:
        # May reject, defer, discard, accept, edit, quarantine, route, sign or tag. Looking into the message needs the grant `read-message`.
        # A field more, with the grant `edit-message`:
        # return Answer(Decision_Pass(), [Action_AddHeader(NewHeader("X-Seen", b"yes", HeaderPlace.TOP))], None)
        return passed()
