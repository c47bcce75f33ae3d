impl OnMessage for MyPolicy {
    fn on_message(&self, _session: &Session, _message: &Message) -> Answer {
        // May reject, defer, discard, accept, edit, quarantine, route, sign or tag. Looking into the message needs the grant `read-message`.
        Answer::pass()
    }
}
