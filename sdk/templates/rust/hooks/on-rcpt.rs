impl OnRcpt for MyPolicy {
    fn on_rcpt(&self, _session: &Session, _recipient: &Mailbox, _relay: &RelayView) -> Answer {
        // May reject, defer, discard, accept, allow relaying, rewrite or add recipients, route, delay or tag: Answer::reject(550, "5.1.1", "No such user").
        Answer::pass()
    }
}
