impl OnEhlo for MyPolicy {
    fn on_ehlo(&self, _session: &Session, _name: &str) -> Answer {
        // May reject, defer, disconnect, accept, delay, or withdraw an extension.
        Answer::pass()
    }
}
