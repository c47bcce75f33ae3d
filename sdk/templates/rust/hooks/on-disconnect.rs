impl OnDisconnect for MyPolicy {
    fn on_disconnect(&self, _session: &Session) {
        // Observes: nothing can be answered. Session notes are there for the last time.
    }
}
