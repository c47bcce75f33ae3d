impl OnData for MyPolicy {
    fn on_data(&self, _session: &Session) -> Answer {
        // May reject, defer, disconnect, accept or tag. Refusing here spares the transfer.
        Answer::pass()
    }
}
