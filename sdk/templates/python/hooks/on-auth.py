class OnAuth(exports.OnAuth):
    def on_auth(self, session, attempt) -> exports.on_auth.Verdict:
        # May vouch for an identity (grant `authenticate`), refuse or defer. Passing leaves it to the users file.
        return exports.on_auth.Verdict_Pass()
