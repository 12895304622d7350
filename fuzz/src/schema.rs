//! Schema text: through the grammar, through layout, and through all passes.

use std::path::PathBuf;

use qapi_parser::Loader;

/// Lays a schema out, which again changes nothing, and loads it as the only file.
pub(crate) fn parse(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(laid_out) = qapi_parser::format("schema.json", text)
    {
        let again = qapi_parser::format("schema.json", &laid_out);
        let again = again.unwrap_or_else(|error| panic!("{error}\n{laid_out}"));
        assert_eq!(again, laid_out, "laid out twice");
    }
    // Other files are no input of this target.
    if bytes.windows(7).any(|word| word == b"include") {
        return;
    }
    let file = Scratch::of(bytes);
    match Loader::new().load(&file.0) {
        Ok(schema) => drop(schema),
        Err(diagnostics) => drop(diagnostics.to_string()),
    }
}

/// A file that goes with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn of(bytes: &[u8]) -> Scratch {
        let thread = std::thread::current().id();
        let name = format!("fuzz-schema-{}-{thread:?}.json", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).expect("room for a schema");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A file that stays only costs space.
        let _ = std::fs::remove_file(&self.0);
    }
}
