//! Guests that mean harm, from their text in `tests/hostile`. Fuzz targets have them from here too.

use std::path::Path;

/// The repository, also from within a crate in it.
fn root() -> &'static Path {
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let root = folders.find(|folder| folder.join("tests/hostile").exists());
    root.expect("a folder with tests/hostile")
}

/// A file of `tests/hostile`.
pub fn text(file: &str) -> String {
    let path = root().join("tests/hostile").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The guest that misbehaves in this way, when it comes to this number of `frame.wat`.
pub fn hostile(way: &str, at: usize) -> Vec<u8> {
    let module = text("frame.wat")
        .replace("(;WAY;)", &text(&format!("{way}.wat")))
        .replace("(;AT;) -1", &at.to_string());
    let mut module = wat::parse_str(module).unwrap_or_else(|error| panic!("{way}: {error}"));
    let mut resolve = wit_parser::Resolve::default();
    let (package, _) = resolve.push_dir(root().join("wit")).expect("the interface");
    let world = resolve.select_world(&[package], Some("all-hooks")).expect("the world");
    wit_component::embed_component_metadata(&mut module, &resolve, world, wit_component::StringEncoding::UTF8)
        .expect("a core module");
    wit_component::ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.encode())
        .unwrap_or_else(|error| panic!("{way}: {error:#}"))
}
