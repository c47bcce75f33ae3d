impl OnMail for MyPolicy {
    fn on_mail(&self, _session: &Session, _sender: &Mailbox) -> Answer {
        // May reject, defer, disconnect, accept, rewrite the sender, delay or tag.
        Answer::pass()
    }
}
