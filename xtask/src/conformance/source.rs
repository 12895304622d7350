//! QEMU's source tree, from Debian's source package, in a cache under the build folder.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Debian says which mirror this machine uses.
const SOURCES: &str = "/etc/apt/sources.list.d/debian.sources";

/// The mirror of a machine that names none.
const MIRROR: &str = "http://deb.debian.org/debian";

/// The release of Debian whose QEMU the numbers of this project are about, whatever release the
/// machine has.
const RELEASE: &str = "trixie";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The folder of the tree; brought and unpacked when it is not there yet.
pub(super) fn bring() -> Result<PathBuf, String> {
    let build = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| crate::root().join("target"), PathBuf::from);
    let cache = build.join("qemu-source");
    let tree = cache.join("qemu");
    if tree.join("VERSION").exists() {
        return Ok(tree);
    }
    let (lists, packages) = (cache.join("lists"), cache.join("packages"));
    for folder in [&lists.join("partial"), &packages, &tree] {
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    }
    let list = cache.join("source.sources");
    let text = source_list(&std::fs::read_to_string(SOURCES).unwrap_or_default());
    std::fs::write(&list, text)
        .map_err(|error| format!("cannot write {}: {error}", list.display()))?;
    let apt = |folder: &Path, arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .arg(format!("-oDir::Etc::sourcelist={}", list.display()))
            .arg("-oDir::Etc::sourceparts=-")
            .arg(format!("-oDir::State::Lists={}", lists.display()))
            .args(arguments)
            .current_dir(folder);
        run(command)
    };
    apt(&cache, &["update"])?;
    apt(&packages, &["source", "--download-only", "qemu"])?;
    let archive = archive(&packages)?;
    let mut tar = Command::new("tar");
    tar.arg("xf").arg(archive).arg("-C").arg(&tree);
    tar.arg("--strip-components=1");
    run(tar)?;
    Ok(tree)
}

/// A list of source packages on the mirror that `binaries`, a list of binary ones, names first.
fn source_list(binaries: &str) -> String {
    let mut lines = binaries.lines();
    let mirror = lines.find_map(|line| line.strip_prefix("URIs:"));
    let mirror = mirror.map_or(MIRROR, str::trim);
    format!(
        "Types: deb-src\nURIs: {mirror}\nSuites: {RELEASE}\nComponents: main\nSigned-By: {KEYRING}\n"
    )
}

fn archive(folder: &Path) -> Result<PathBuf, String> {
    let describe = |error| format!("cannot list {}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(describe)? {
        let path = entry.map_err(describe)?.path();
        if path.to_string_lossy().ends_with(".orig.tar.xz") {
            return Ok(path);
        }
    }
    Err(format!("no source archive came into {}", folder.display()))
}

fn run(mut command: Command) -> Result<(), String> {
    let shown = format!("{command:?}");
    let status = command
        .status()
        .map_err(|error| format!("cannot run {shown}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{shown} ended with {status}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(binaries: &str, mirror: &str) {
        let want = format!(
            "Types: deb-src\nURIs: {mirror}\nSuites: trixie\nComponents: main\nSigned-By: {KEYRING}\n"
        );
        assert_eq!(source_list(binaries), want);
    }

    #[test]
    fn sources_come_from_the_mirror_of_the_binaries() {
        let binaries = "Types: deb\nURIs: http://a.example/debian\nSuites: bookworm\n\n\
                        Types: deb\nURIs: http://b.example\nSuites: bookworm-security\n";
        check(binaries, "http://a.example/debian");
        check("", MIRROR);
    }
}
