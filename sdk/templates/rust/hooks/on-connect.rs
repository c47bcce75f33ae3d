impl OnConnect for MyPolicy {
    fn on_connect(&self, _session: &Session) -> Answer {
        // May reject, defer, disconnect, accept or delay. The client waits for the banner.
        Answer::pass()
    }
}
