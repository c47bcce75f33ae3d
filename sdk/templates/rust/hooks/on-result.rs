impl OnResult for MyPolicy {
    fn on_result(&self, _session: &Session, _event: &CommandResult) {
        // Observes: nothing can be answered. A command was refused, or AUTH was answered.
    }
}
