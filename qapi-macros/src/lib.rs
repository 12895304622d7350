//! QAPI schema to Rust, as a macro: what a build script does with `qapi-codegen`, in one line.
//! No logic of its own: it finds the file, and shows errors at the caller's place.

mod input;

use std::path::{Path, PathBuf};

use proc_macro::TokenStream;
use quote::{quote, quote_spanned};

use input::Input;

/// Generates the types, commands and events of the schema in the file named.
///
/// The path is relative to the file that calls, as with `include_str!`. Expands to items: call it
/// in a module of its own.
/// ```ignore
/// pub mod qapi {
///     qapi_macros::schema!("qapi/schema.json");
/// }
/// ```
/// Options follow the path, each at most once, as in
/// `schema!("schema.json", unknown = closed, only = ["query-block"])`:
///
/// | Option | Values |
/// |---|---|
/// | `dialect` | `auto`, `legacy`, `modern` |
/// | `overlays` | `["file.json", …]`, relative like the schema |
/// | `conditions` | `all_on`, `features`, or the symbols that are configured: `["CONFIG_X", …]` |
/// | `unknown` | `open`, `closed` |
/// | `growth` | `non_exhaustive`, `exhaustive` |
/// | `only` | `["command", "EVENT", …]` |
/// | `derive` | `["Type" => "Trait", …]` |
/// | `attribute` | `["Type.member" => "#[…]", …]` |
/// | `replace` | `["Type.member" => "path::Type", …]` |
/// | `serde` | `off`, `on`, or the cargo feature: `"serde"` |
/// | `runtime` | `"path::of::runtime"` |
///
/// They mean what the methods of `qapi_codegen::Builder` say.
#[proc_macro]
pub fn schema(input: TokenStream) -> TokenStream {
    let Input { schema, options } = syn::parse_macro_input!(input as Input);
    let span = schema.span();
    let folder = folder(span.unwrap());
    let mut builder = qapi_codegen::Builder::new(folder.join(schema.value()));
    for option in options {
        builder = option(builder, &folder);
    }
    let (text, files) = match builder.text() {
        Ok(made) => made,
        Err(error) => {
            // The compiler adds the first "error:" and an arrow to the caller.
            let message = error.to_string().replace("--> ", "at ");
            let message = message
                .strip_prefix("error: ")
                .unwrap_or(&message)
                .trim_end();
            return quote_spanned!(span => compile_error!(#message);).into();
        }
    };
    let code: proc_macro2::TokenStream = match text.parse() {
        Ok(code) => code,
        Err(error) => {
            let message = format!("generated code is not Rust: {error}");
            return quote_spanned!(span => compile_error!(#message);).into();
        }
    };
    // The compiler sees by this that the code depends on the schema's files.
    let files = files
        .iter()
        .map(|file| absolute(file).to_string_lossy().into_owned());
    quote! {
        #(const _: &[u8] = include_bytes!(#files);)*
        #code
    }
    .into()
}

/// The folder of the file that calls; of the package, where that is not known.
fn folder(span: proc_macro::Span) -> PathBuf {
    let caller = span.local_file();
    let folder = caller.and_then(|file| file.parent().map(Path::to_owned));
    folder.unwrap_or_else(|| {
        std::env::var_os("CARGO_MANIFEST_DIR")
            .map(PathBuf::from)
            .unwrap_or_default()
    })
}

fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
