//! The daemon's options, as the schema's types. Each may be `key=value,…` or JSON.
//! Not here: acting on them (`mod.rs`).

use std::fmt;
use std::path::PathBuf;

use block_schema::commands::NbdServerStart;
use block_schema::types::{BlockExportOptions, BlockdevOptions};
use block_schema::{Object, Unknown, Value, Wire};

use super::Args;
use crate::opts::{keyval, typed};
use crate::report::Failure;

/// What the daemon is to do.
pub(super) struct Plan {
    pub(super) nodes: Vec<BlockdevOptions>,
    pub(super) nbd_server: Option<NbdServerStart>,
    pub(super) exports: Vec<BlockExportOptions>,
    pub(super) monitors: Vec<Chardev>,
}

/// A socket for a monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chardev {
    /// Clients come to this path.
    ListenUnix(PathBuf),
    /// Clients come to this host and port.
    ListenInet(String),
    /// The client listens at this path.
    ConnectUnix(PathBuf),
}

impl fmt::Display for Chardev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chardev::ListenUnix(path) | Chardev::ConnectUnix(path) => {
                write!(f, "{}", path.display())
            }
            Chardev::ListenInet(address) => f.write_str(address),
        }
    }
}

impl Plan {
    /// Reads the options.
    ///
    /// # Errors
    /// What is wrong, by the option's and the member's name.
    pub(super) fn parse(args: &Args) -> Result<Plan, Failure> {
        let chardevs = each(&args.chardev, "chardev", named_chardev)?;
        let monitors = each(&args.monitor, "monitor", |text| {
            let id = monitored(text)?;
            let found = chardevs.iter().find(|(name, _)| *name == id);
            found
                .map(|(_, chardev)| chardev.clone())
                .ok_or_else(|| Failure::new(format!("chardev \"{id}\" not found")))
        })?;
        let server = args.nbd_server.as_ref();
        Ok(Plan {
            nodes: each(&args.blockdev, "blockdev", |text| {
                decode(typed::arguments_of(
                    "blockdev-add",
                    object(text, Some("driver"))?,
                )?)
            })?,
            nbd_server: server.map(|text| nbd_server(text)).transpose()?,
            exports: each(&args.export, "export", |text| {
                decode(typed::arguments_of(
                    "block-export-add",
                    object(text, Some("type"))?,
                )?)
            })?,
            monitors,
        })
    }
}

fn each<T>(
    texts: &[String],
    option: &str,
    parse: impl Fn(&str) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    let parsed = texts.iter().map(|text| {
        parse(text).map_err(|failure| failure.while_doing(&format!("--{option} {text}")))
    });
    parsed.collect()
}

/// An option's object, from JSON or from a list.
fn object(text: &str, implied: Option<&str>) -> Result<Object, Failure> {
    if !text.starts_with('{') {
        return keyval::parse(text, implied);
    }
    match Value::from_json(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Failure::new("Expected a JSON object")),
        Err(error) => Err(Failure::new(error.to_string())),
    }
}

/// A type of the schema from an object.
pub(super) fn decode<T: Wire>(object: Object) -> Result<T, Failure> {
    T::decode(Value::Object(object), Unknown::Refuse)
        .map_err(|invalid| Failure::new(invalid.to_string()))
}

/// The command's arguments for `--nbd-server`, whose address is written flat.
fn nbd_server(text: &str) -> Result<NbdServerStart, Failure> {
    let mut options = object(text, None)?;
    if let Some(Value::Object(mut flat)) = options.remove("addr") {
        let mut address = Object::new();
        if let Some(kind) = flat.remove("type") {
            address.insert("type", kind);
        }
        address.insert("data", flat);
        options.insert("addr", address);
    }
    let options = typed::arguments_of("nbd-server-start", options)?;
    decode(options).map_err(|failure| failure.while_doing(&format!("--nbd-server {text}")))
}

/// A chardev and its id.
fn named_chardev(text: &str) -> Result<(String, Chardev), Failure> {
    let mut options = Strings::of(object(&spelled_out(text), Some("backend"))?)?;
    let backend = options.required("backend")?;
    if backend != "socket" {
        return Err(Failure::new(format!(
            "chardev backend '{backend}' is not built in"
        )));
    }
    let id = options.required("id")?;
    let server = options.switch("server")?.unwrap_or(false);
    // Clients that come later are welcome, too, so there is nothing to wait for.
    options.switch("wait")?;
    let chardev = match (options.take("path"), options.take("host"), server) {
        (Some(path), None, true) => Chardev::ListenUnix(path.into()),
        (Some(path), None, false) => Chardev::ConnectUnix(path.into()),
        (None, Some(host), true) => {
            Chardev::ListenInet(format!("{host}:{}", options.required("port")?))
        }
        (None, Some(_), false) => {
            return Err(Failure::new("a TCP client as a chardev is not built in"));
        }
        _ => return Err(Failure::new("Parameter 'path' is missing")),
    };
    options.end()?;
    Ok((id, chardev))
}

/// Older spellings: `server` for `server=on`, `nowait` for `wait=off`.
fn spelled_out(text: &str) -> String {
    let mut parts = keyval::split(text);
    for part in parts.iter_mut().skip(1).filter(|part| !part.contains('=')) {
        *part = match part.strip_prefix("no") {
            Some(name) => format!("{name}=off"),
            None => format!("{part}=on"),
        };
    }
    let escaped: Vec<String> = parts.iter().map(|part| part.replace(',', ",,")).collect();
    if text.starts_with('{') {
        text.to_owned()
    } else {
        escaped.join(",")
    }
}

/// The chardev that a monitor is to use.
fn monitored(text: &str) -> Result<String, Failure> {
    let mut options = Strings::of(object(text, Some("chardev"))?)?;
    let id = options.required("chardev")?;
    // Names are for monitors that other commands refer to; there are none.
    options.take("id");
    if let Some(mode) = options.take("mode").filter(|mode| mode != "control") {
        return Err(Failure::new(format!(
            "monitor mode '{mode}' is not built in"
        )));
    }
    if options.switch("pretty")? == Some(true) {
        return Err(Failure::new("option 'pretty' is not built in"));
    }
    options.end()?;
    Ok(id)
}

/// Options that no type of the schema describes.
struct Strings(Vec<(String, String)>);

impl Strings {
    fn of(object: Object) -> Result<Strings, Failure> {
        let text = |(name, value): (String, Value)| match value {
            Value::String(text) => Ok((name, text)),
            Value::Bool(on) => Ok((name, if on { "on" } else { "off" }.to_owned())),
            _ => Err(Failure::new(format!("Invalid parameter type for '{name}'"))),
        };
        object
            .into_iter()
            .map(text)
            .collect::<Result<_, _>>()
            .map(Strings)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let index = self.0.iter().position(|(given, _)| given == name)?;
        Some(self.0.remove(index).1)
    }

    fn required(&mut self, name: &str) -> Result<String, Failure> {
        self.take(name)
            .ok_or_else(|| Failure::new(format!("Parameter '{name}' is missing")))
    }

    fn switch(&mut self, name: &str) -> Result<Option<bool>, Failure> {
        match self.take(name).as_deref() {
            None => Ok(None),
            Some("on" | "yes" | "true" | "y") => Ok(Some(true)),
            Some("off" | "no" | "false" | "n") => Ok(Some(false)),
            Some(_) => Err(Failure::new(format!(
                "Parameter '{name}' expects 'on' or 'off'"
            ))),
        }
    }

    fn end(self) -> Result<(), Failure> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Failure::new(format!("Parameter '{name}' is unexpected"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &str) {
        let got = match named_chardev(text) {
            Ok((id, chardev)) => format!("{id}: {chardev:?}"),
            Err(failure) => failure.text().to_owned(),
        };
        assert_eq!(got, want);
    }

    #[test]
    fn sockets_in_all_spellings() {
        let listens = r#"c: ListenUnix("/a")"#;
        check("socket,id=c,path=/a,server=on,wait=off", listens);
        check("socket,id=c,path=/a,server,nowait", listens);
        check(
            r#"{"backend": "socket", "id": "c", "path": "/a", "server": true}"#,
            listens,
        );
        check(
            "socket,id=c,host=::1,port=9,server=on",
            r#"c: ListenInet("::1:9")"#,
        );
        check("socket,id=c,path=/a", r#"c: ConnectUnix("/a")"#);
    }

    #[test]
    fn what_is_not_built_in_is_named() {
        check("stdio,id=c", "chardev backend 'stdio' is not built in");
        check(
            "socket,id=c,path=/a,server=on,tls-creds=x",
            "Parameter 'tls-creds' is unexpected",
        );
        check("socket,path=/a", "Parameter 'id' is missing");
    }

    #[test]
    fn flat_addresses_become_the_commands() {
        let options = nbd_server("addr.type=unix,addr.path=/a,max-connections=3").unwrap();
        assert_eq!(options.max_connections, Some(3));
        assert!(nbd_server("addr.type=vsock").is_err());
    }
}
