class OnDisconnect(exports.OnDisconnect):
    def on_disconnect(self, session) -> None:
        # Observes: nothing can be answered. Session notes are there for the last time.
        pass
