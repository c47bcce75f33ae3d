impl OnAuth for MyPolicy {
    fn on_auth(&self, _session: &Session, _attempt: &gatepost_sdk::login::Attempt) -> Verdict {
        // May vouch for an identity (grant `authenticate`), refuse or defer. Passing leaves it to the users file.
        Verdict::Pass
    }
}
