class OnQueued(exports.OnQueued):
    def on_queued(self, session, message) -> None:
        # Observes: nothing can be answered. The message is durable.
        pass
