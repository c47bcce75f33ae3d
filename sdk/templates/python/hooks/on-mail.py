class OnMail(exports.OnMail):
    def on_mail(self, session, sender) -> Answer:
        # May reject, defer, disconnect, accept, rewrite the sender, delay or tag.
        return passed()
