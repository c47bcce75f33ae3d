//! The interface of `wit/`, as wit-bindgen makes it: the imports of the world `base`, and each hook's export glue.
//!
//! Each hook gets bindings of its own, from a world that exports this hook alone, so that a policy exports what it
//! implements and nothing else. All of them share the types generated for the base world. Nothing here is written by
//! hand, and nothing here has behaviour of its own. Outside of a component its imports cannot be called: see `native`.

#![allow(
    missing_docs,
    reason = "the generated items carry the documentation of the WIT files"
)]

wit_bindgen::generate!({
    path: "../wit",
    world: "gatepost:policy/base@0.1.0",
    generate_all,
    // Tests compare answers.
    additional_derives: [PartialEq],
});

/// The export glue of one hook: its module, its world, the name of its macro, and the interfaces it shares with the base world.
macro_rules! hook {
    ($module:ident, $world:literal, $export:literal, $($interface:literal => $shared:ident),*) => {
        #[doc(hidden)]
        pub mod $module {
            wit_bindgen::generate!({
                path: "../wit",
                inline: $world,
                pub_export_macro: true,
                export_macro_name: $export,
                disable_custom_section_link_helpers: true,
                additional_derives: [PartialEq],
                with: { $($interface: crate::bindings::gatepost::policy::$shared),* },
            });
        }
    };
}

hook!(
    lifecycle,
    "package gatepost:sdk; world lifecycle { export gatepost:policy/lifecycle@0.1.0; }",
    "export_lifecycle",
);
hook!(
    on_connect,
    "package gatepost:sdk; world on-connect { export gatepost:policy/on-connect@0.1.0; }",
    "export_on_connect",
    "gatepost:policy/types@0.1.0" => types
);
hook!(
    on_ehlo,
    "package gatepost:sdk; world on-ehlo { export gatepost:policy/on-ehlo@0.1.0; }",
    "export_on_ehlo",
    "gatepost:policy/types@0.1.0" => types
);
hook!(
    on_auth,
    "package gatepost:sdk; world on-auth { export gatepost:policy/on-auth@0.1.0; }",
    "export_on_auth",
    "gatepost:policy/types@0.1.0" => types, "gatepost:policy/login@0.1.0" => login
);
hook!(
    on_mail,
    "package gatepost:sdk; world on-mail { export gatepost:policy/on-mail@0.1.0; }",
    "export_on_mail",
    "gatepost:policy/types@0.1.0" => types
);
hook!(
    on_rcpt,
    "package gatepost:sdk; world on-rcpt { export gatepost:policy/on-rcpt@0.1.0; }",
    "export_on_rcpt",
    "gatepost:policy/types@0.1.0" => types
);
hook!(
    on_data,
    "package gatepost:sdk; world on-data { export gatepost:policy/on-data@0.1.0; }",
    "export_on_data",
    "gatepost:policy/types@0.1.0" => types
);
hook!(
    on_message,
    "package gatepost:sdk; world on-message { export gatepost:policy/on-message@0.1.0; }",
    "export_on_message",
    "gatepost:policy/types@0.1.0" => types, "gatepost:policy/messages@0.1.0" => messages
);
hook!(
    on_route,
    "package gatepost:sdk; world on-route { export gatepost:policy/on-route@0.1.0; }",
    "export_on_route",
    "gatepost:policy/types@0.1.0" => types, "gatepost:policy/queue@0.1.0" => queue
);
hook!(
    on_delivery,
    "package gatepost:sdk; world on-delivery { export gatepost:policy/on-delivery@0.1.0; }",
    "export_on_delivery",
    "gatepost:policy/types@0.1.0" => types, "gatepost:policy/queue@0.1.0" => queue
);
hook!(
    on_queued,
    "package gatepost:sdk; world on-queued { export gatepost:policy/on-queued@0.1.0; }",
    "export_on_queued",
    "gatepost:policy/types@0.1.0" => types, "gatepost:policy/queue@0.1.0" => queue
);
hook!(
    on_result,
    "package gatepost:sdk; world on-result { export gatepost:policy/on-result@0.1.0; }",
    "export_on_result",
    "gatepost:policy/types@0.1.0" => types
);
hook!(
    on_disconnect,
    "package gatepost:sdk; world on-disconnect { export gatepost:policy/on-disconnect@0.1.0; }",
    "export_on_disconnect",
    "gatepost:policy/types@0.1.0" => types
);
