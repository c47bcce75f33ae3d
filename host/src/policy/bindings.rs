//! The typed bindings of `wit/`, generated. The world `all-hooks` is used for its types only: a plugin need not export all of
//! it, and each hook is found by name when a plugin is loaded.
//!
//! Host functions that only read memory are plain calls; those that may wait are `async` and run on the call's fiber.

wasmtime::component::bindgen!({
    world: "all-hooks",
    path: "wit",
    imports: {
        "gatepost:policy/types.[method]session.reverse-name": async | trappable,
        "gatepost:policy/login.[method]attempt.verify": async | trappable,
        "gatepost:policy/state": async | trappable,
        "gatepost:policy/dns": async | trappable,
        "gatepost:policy/authentication": async | trappable,
        "gatepost:policy/endpoint.names": trappable,
        "gatepost:policy/endpoint": async | trappable,
        default: trappable,
    },
    exports: { default: async },
    with: {
        "gatepost:policy/types.session": super::imports::Session,
        "gatepost:policy/types.mailbox": super::imports::Mailbox,
        "gatepost:policy/messages.message": super::imports::Message,
        "gatepost:policy/login.attempt": super::imports::Attempt,
        "gatepost:policy/endpoint.connection": super::imports::Connection,
    },
});
