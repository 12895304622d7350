//! The support code, emitted as it stands in `runtime/`.

use crate::file::Module;
use crate::options::Serde;

const FILES: [(&str, &str); 10] = [
    ("call", include_str!("../../runtime/call.rs")),
    ("client", include_str!("../../runtime/client.rs")),
    ("connection", include_str!("../../runtime/connection.rs")),
    ("convert", include_str!("../../runtime/convert.rs")),
    ("error", include_str!("../../runtime/error.rs")),
    ("event", include_str!("../../runtime/event.rs")),
    ("json", include_str!("../../runtime/json.rs")),
    ("request", include_str!("../../runtime/request.rs")),
    ("value", include_str!("../../runtime/value.rs")),
    ("write", include_str!("../../runtime/write.rs")),
];

pub(super) fn emit(serde: &Serde) -> Module {
    let mut root = include_str!("../../runtime/mod.rs").to_owned();
    let condition = match serde {
        Serde::Off => None,
        Serde::On => Some(String::new()),
        Serde::Feature(feature) => Some(format!("#[cfg(feature = \"{feature}\")]\n")),
    };
    if let Some(condition) = &condition {
        root.push_str(&format!("\n{condition}mod serde;\n{condition}"));
        root.push_str("pub(crate) use serde::serde_adapters;\n");
    }
    let mut module = Module::text("runtime", &root);
    for (name, text) in FILES {
        module.add(Module::text(name, text));
    }
    if condition.is_some() {
        module.add(Module::text(
            "serde",
            include_str!("../../runtime/serde.rs"),
        ));
    }
    module
}
