impl OnRoute for MyPolicy {
    fn on_route(&self, _session: &Session, _message: &gatepost_sdk::queue::QueuedMessage) -> Answer {
        // May route, choose source address and TLS, hold (quarantine), defer, fail (reject) or discard.
        Answer::pass()
    }
}
