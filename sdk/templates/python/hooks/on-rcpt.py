class OnRcpt(exports.OnRcpt):
    def on_rcpt(self, session, recipient, relay) -> Answer:
        # May reject, defer, discard, accept, allow relaying, rewrite or add recipients, route, delay or tag:
        # return Answer(Decision_Reject(Reply(550, "5.1.1", "No such user")), [], None)
        return passed()
