//! The support code, emitted as it stands in `runtime/`; parts that need a crate only when asked for.

use crate::file::Module;
use crate::options::{Client, Part, Serde};

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

/// What is emitted when asked for: module, text, what is re-exported of it.
const TOKIO: Extra = Extra {
    name: "tokio",
    text: include_str!("../../runtime/tokio.rs"),
    exports: "pub use self::tokio::Tokio;",
};
const FUTURES: Extra = Extra {
    name: "futures",
    text: include_str!("../../runtime/futures.rs"),
    exports: "pub use self::futures::Futures;",
};
const ASYNCHRONOUS: Extra = Extra {
    name: "asynchronous",
    text: include_str!("../../runtime/asynchronous.rs"),
    exports: "pub use self::asynchronous::{AsyncClient, Transport};",
};
const DESCRIPTORS: Extra = Extra {
    name: "descriptors",
    text: include_str!("../../runtime/descriptors.rs"),
    exports: "",
};
const SERDE: Extra = Extra {
    name: "serde",
    text: include_str!("../../runtime/serde.rs"),
    exports: "pub(crate) use self::serde::serde_adapters;",
};

struct Extra {
    name: &'static str,
    text: &'static str,
    exports: &'static str,
}

pub(super) fn emit(serde: &Serde, client: &Client) -> Module {
    let serde = match serde {
        Serde::Off => Part::Off,
        Serde::On => Part::On,
        Serde::Feature(feature) => Part::Feature(feature.clone()),
    };
    let asynchronous = [&client.asynchronous, &client.tokio, &client.futures];
    let extras = [
        (ASYNCHRONOUS, condition(&asynchronous)),
        (DESCRIPTORS, condition(&[&client.descriptors])),
        (FUTURES, condition(&[&client.futures])),
        (SERDE, condition(&[&serde])),
        (TOKIO, condition(&[&client.tokio])),
    ];
    let mut root = include_str!("../../runtime/mod.rs").to_owned();
    let mut added = Vec::new();
    for (extra, condition) in extras {
        let Some(condition) = condition else { continue };
        root.push_str(&format!("\n{condition}mod {};\n", extra.name));
        if !extra.exports.is_empty() {
            root.push_str(&format!("{condition}{}\n", extra.exports));
        }
        added.push(Module::text(extra.name, extra.text));
    }
    let mut module = Module::text("runtime", &root);
    for (name, text) in FILES {
        module.add(Module::text(name, text));
    }
    for extra in added {
        module.add(extra);
    }
    module
}

/// The line before what is there when any of `parts` is; `None` when none ever is.
fn condition(parts: &[&Part]) -> Option<String> {
    let mut features = Vec::new();
    for part in parts {
        match part {
            Part::Off => {}
            Part::On => return Some(String::new()),
            Part::Feature(feature) => features.push(format!("feature = {feature:?}")),
        }
    }
    match features.as_slice() {
        [] => None,
        [one] => Some(format!("#[cfg({one})]\n")),
        many => Some(format!("#[cfg(any({}))]\n", many.join(", "))),
    }
}
