//! What was released stays: components built against a kept copy of the interface load and work, and the interface of today has everything that
//! they were built against.
//!
//! `tests/released/VERSION/` holds the `wit/` of that version, and a component built then with its transcript. A copy is never changed; a new
//! one is made with each release. What may change in `wit/` under the same version: documentation, new interfaces, new types, new functions of interfaces
//! that policies import. Everything else is a new version of the interface beside the old one.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use support::gatepost;
use wit_parser::{Handle, Interface, Resolve, Type, TypeDefKind, TypeId, WorldItem};

/// The world of all hooks, which says what policies export.
const ALL_HOOKS: &str = "all-hooks";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn released() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(root().join("tests/released")).expect("the kept versions");
    folder.map(|entry| entry.expect("an entry").path()).collect()
}

/// All files of a package as one text.
fn text_of(folder: &Path) -> String {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("a folder of WIT files")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    let texts = files
        .iter()
        .map(|file| std::fs::read_to_string(file).expect("a WIT file"));
    let lines = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    let (packages, rest): (Vec<String>, Vec<String>) = lines.partition(|line| line.starts_with("package "));
    format!(
        "{}\n{}",
        packages.first().expect("it names its package"),
        rest.join("\n")
    )
}

/// What a policy can see of the package: each name, and in which parts it comes.
#[derive(Debug, Default)]
struct Surface {
    package: String,
    /// `types.peer`, and its fields or cases; `types.[method]session.id`, and its parameters and result; `world rcpt-policy`, and what it exports.
    items: BTreeMap<String, Vec<String>>,
    /// Functions of interfaces that policies export.
    exported: Vec<String>,
}

fn surface(text: &str) -> Surface {
    let mut resolve = Resolve::default();
    let package = resolve
        .push_str("all.wit", text)
        .unwrap_or_else(|error| panic!("{error:#}"));
    let package = &resolve.packages[package];
    let mut surface = Surface {
        package: package.name.to_string(),
        ..Surface::default()
    };
    for (name, id) in &package.interfaces {
        surface.add_interface(&resolve, name, &resolve.interfaces[*id]);
    }
    for (name, id) in &package.worlds {
        let named = |item: &WorldItem| match item {
            WorldItem::Interface { id, .. } => resolve.interfaces[*id].name.clone(),
            _ => None,
        };
        let exports: Vec<String> = resolve.worlds[*id].exports.values().filter_map(named).collect();
        if name == ALL_HOOKS {
            surface.exported.clone_from(&exports);
        } else {
            surface.items.insert(format!("world {name}"), exports);
        }
    }
    surface
}

impl Surface {
    fn add_interface(&mut self, resolve: &Resolve, name: &str, interface: &Interface) {
        self.items.insert(format!("interface {name}"), Vec::new());
        for (type_name, id) in &interface.types {
            let members: Vec<String> = match &resolve.types[*id].kind {
                // `use`: the type is its own where it is defined.
                TypeDefKind::Type(_) => continue,
                TypeDefKind::Record(record) => {
                    let field = |field: &wit_parser::Field| format!("field {}: {}", field.name, of(resolve, &field.ty));
                    record.fields.iter().map(field).collect()
                }
                TypeDefKind::Variant(variant) => {
                    let case = |case: &wit_parser::Case| format!("case {}{}", case.name, payload(resolve, &case.ty));
                    variant.cases.iter().map(case).collect()
                }
                TypeDefKind::Enum(all) => all.cases.iter().map(|case| format!("case {}", case.name)).collect(),
                TypeDefKind::Flags(all) => all.flags.iter().map(|flag| format!("flag {}", flag.name)).collect(),
                TypeDefKind::Resource => vec!["resource".to_owned()],
                _ => vec![of(resolve, &Type::Id(*id))],
            };
            self.items.insert(format!("{name}.{type_name}"), members);
        }
        for (function_name, function) in &interface.functions {
            let mut parts: Vec<String> = Vec::new();
            for parameter in &function.params {
                parts.push(format!("parameter {}: {}", parameter.name, of(resolve, &parameter.ty)));
            }
            parts.push(format!("result{}", payload(resolve, &function.result)));
            self.items.insert(format!("{name}.{function_name}"), parts);
        }
    }
}

fn payload(resolve: &Resolve, ty: &Option<Type>) -> String {
    ty.as_ref()
        .map(|ty| format!(": {}", of(resolve, ty)))
        .unwrap_or_default()
}

/// A type as it is written, under the name of where it is defined.
fn of(resolve: &Resolve, ty: &Type) -> String {
    let Type::Id(id) = ty else {
        return format!("{ty:?}").to_ascii_lowercase();
    };
    let definition = &resolve.types[*id];
    let some = |ty: &Option<Type>| ty.as_ref().map_or("_".to_owned(), |ty| of(resolve, ty));
    match &definition.kind {
        TypeDefKind::Type(aliased) => of(resolve, aliased),
        TypeDefKind::Handle(Handle::Own(id)) => name_of(resolve, *id),
        TypeDefKind::Handle(Handle::Borrow(id)) => format!("borrow<{}>", name_of(resolve, *id)),
        TypeDefKind::List(item) => format!("list<{}>", of(resolve, item)),
        TypeDefKind::Option(item) => format!("option<{}>", of(resolve, item)),
        TypeDefKind::Result(result) => format!("result<{}, {}>", some(&result.ok), some(&result.err)),
        TypeDefKind::Tuple(tuple) => {
            let types: Vec<String> = tuple.types.iter().map(|ty| of(resolve, ty)).collect();
            format!("tuple<{}>", types.join(", "))
        }
        _ if definition.name.is_some() => name_of(resolve, *id),
        other => panic!("the interface has a {}: teach this test to compare it", other.as_str()),
    }
}

fn name_of(resolve: &Resolve, id: TypeId) -> String {
    match &resolve.types[id].kind {
        TypeDefKind::Type(Type::Id(aliased)) => name_of(resolve, *aliased),
        _ => resolve.types[id].name.clone().unwrap_or_default(),
    }
}

/// What a component that was built against `old` would miss in `new`, or find changed.
fn broken(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (surface(old), surface(new));
    let mut broken = Vec::new();
    if old.package != new.package {
        return vec![format!("the package {} is now {}", old.package, new.package)];
    }
    for (name, before) in &old.items {
        let Some(now) = new.items.get(name) else {
            broken.push(format!("{name} was removed or renamed"));
            continue;
        };
        let lost = before.iter().filter(|part| !now.contains(part));
        let gained = now.iter().filter(|part| !before.contains(part));
        let changes: Vec<String> = (lost.map(|part| format!("lost `{part}`")))
            .chain(gained.map(|part| format!("gained `{part}`")))
            .collect();
        if !changes.is_empty() {
            broken.push(format!("{name} {}", changes.join(" and ")));
        } else if before != now {
            broken.push(format!("{name} has its parts in another order"));
        }
    }
    for hook in old.exported.iter().filter(|hook| !new.exported.contains(hook)) {
        broken.push(format!("the hook {hook} was removed"));
    }
    let hooks = old.exported.iter().map(|hook| format!("{hook}."));
    for hook in hooks {
        // An older component does not export it, and could not be bound.
        let added = new
            .items
            .iter()
            .filter(|(name, _)| name.starts_with(&hook) && !old.items.contains_key(*name));
        let added = added.filter(|(_, parts)| parts.last().is_some_and(|part| part.starts_with("result")));
        broken.extend(added.map(|(name, _)| format!("{name} was added to a hook: make it an interface of its own")));
    }
    broken
}

#[test]
fn the_interface_has_all_that_was_released() {
    let new = text_of(&root().join("wit"));
    let versions = released();
    assert!(!versions.is_empty());
    for version in versions {
        let broken = broken(&text_of(&version.join("wit")), &new);
        assert!(
            broken.is_empty(),
            "wit/ breaks what was built against {}: {}; take it back, or make a new version of the interface beside the old one",
            version.display(),
            broken.join("; ")
        );
    }
}

#[test]
fn what_breaks_a_component_is_named() {
    let old = text_of(&root().join("wit"));
    let cases = [
        (
            "recipient-count: func() -> u32;",
            "",
            "types.[method]session.recipient-count was removed or renamed",
        ),
        (
            "is-our-domain: func(domain: string) -> bool;",
            "is-our-domain: func(name: string, domain: string) -> bool;",
            "types.[method]session.is-our-domain gained `parameter name: string`",
        ),
        (
            "get-u64: func() -> u64;",
            "get-u64: func() -> u32;",
            "random.get-u64 lost `result: u64` and gained `result: u32`",
        ),
        ("        port: u16,\n", "", "types.peer lost `field port: u16`"),
        (
            "        port: u16,\n",
            "        port: u16,\n        scope: u32,\n",
            "types.peer gained `field scope: u32`",
        ),
        (
            "        route(string),\n",
            "        route(string),\n        bounce,\n",
            "types.action gained `case bounce`",
        ),
        (
            "enum header-place { top, bottom }",
            "enum header-place { bottom, top }",
            "types.header-place has its parts in another order",
        ),
        (
            "interface clock {",
            "interface time {",
            "interface clock was removed or renamed",
        ),
        (
            "    on-data: func(session: borrow<session>) -> answer;",
            "    on-data: func(session: borrow<session>) -> answer;\n    on-bdat: func() -> bool;",
            "on-data.on-bdat was added to a hook",
        ),
        (
            "    export on-mail;\n    export on-rcpt;\n",
            "    export on-rcpt;\n",
            "the hook on-mail was removed",
        ),
        (
            "@0.1.0;",
            "@0.2.0;",
            "the package gatepost:policy@0.1.0 is now gatepost:policy@0.2.0",
        ),
    ];
    for (before, after, expected) in cases {
        assert!(old.contains(before), "{before:?} is not in wit/");
        let mut new = old.replacen(before, after, 1);
        if before.starts_with("interface clock") {
            new = new.replace("import clock;", "import time;");
        }
        let broken = broken(&old, &new);
        assert!(
            broken.iter().any(|text| text.starts_with(expected)),
            "{expected}: {broken:?}"
        );
    }
}

#[test]
fn what_breaks_nothing_is_free() {
    let old = text_of(&root().join("wit"));
    for (before, after) in [
        (
            "get-u64: func() -> u64;",
            "get-u64: func() -> u64;\n    get-bytes: func(count: u32) -> list<u8>;",
        ),
        (
            "interface clock {",
            "interface weather {\n    enum sky { blue, grey }\n    now: func() -> sky;\n}\ninterface clock {",
        ),
        ("/// DATA, or", "/// Or: DATA, or"),
        (
            "recipient-count: func() -> u32;",
            "recipient-count: func() -> u32;\n        mood: func() -> string;",
        ),
    ] {
        assert!(old.contains(before), "{before:?} is not in wit/");
        assert_eq!(broken(&old, &old.replacen(before, after, 1)), [""; 0], "{after}");
    }
}

#[test]
fn components_of_released_versions_load_and_work() {
    for version in released() {
        let component = version.join("rust-minimal.wasm");
        let transcript = version.join("rust-minimal.transcript");
        let output = gatepost()
            .args(["plugin", "test"])
            .args([&component, &transcript])
            .output()
            .expect("gatepost runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", component.display());
    }
}
