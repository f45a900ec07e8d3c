//! What the checks look at: the workspace's packages with their manifests and sources.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::source::Source;

/// The workspace.
pub(super) struct Tree {
    pub(super) packages: Vec<Package>,
}

/// One crate of the workspace.
pub(super) struct Package {
    /// As in the manifest, such as `myelin-core`.
    pub(super) name: String,
    /// The manifest's path, relative to the workspace.
    pub(super) manifest: PathBuf,
    pub(super) manifest_text: String,
    /// Names of the packages that the product's code depends on (normal and build dependencies).
    pub(super) dependencies: Vec<String>,
    /// Names of the packages that only its tests depend on.
    pub(super) test_dependencies: Vec<String>,
    pub(super) sources: Vec<File>,
}

/// One Rust file below `src`.
pub(super) struct File {
    /// Relative to the workspace.
    pub(super) path: PathBuf,
    /// Relative to `src`: `receive.rs`, `join/handshake.rs`.
    pub(super) module_path: PathBuf,
    pub(super) text: String,
    pub(super) source: Source,
}

impl Package {
    /// The crate's short name: `core` for `myelin-core`.
    pub(super) fn short(&self) -> &str {
        self.name.strip_prefix("myelin-").unwrap_or(&self.name)
    }

    /// The line of the manifest that names a dependency; 1 if it is not written there.
    pub(super) fn line_of(&self, dependency: &str) -> usize {
        let names = |line: &str| {
            let rest = line.trim_start().strip_prefix(dependency)?;
            rest.starts_with(['.', ' ', '=']).then_some(())
        };
        self.manifest_text
            .lines()
            .position(|line| names(line).is_some())
            .map_or(1, |index| index + 1)
    }
}

impl File {
    pub(super) fn new(path: PathBuf, module_path: PathBuf, text: String) -> Self {
        Self {
            path,
            module_path,
            source: Source::parse(&text),
            text,
        }
    }

    /// The top-level module the file belongs to: `join` for `join/handshake.rs`.
    pub(super) fn top_module(&self) -> String {
        let first = self
            .module_path
            .iter()
            .next()
            .unwrap_or_default()
            .to_string_lossy();
        first.strip_suffix(".rs").unwrap_or(&first).to_owned()
    }
}

impl Tree {
    /// Reads the workspace at `root` with `cargo metadata` and from its files.
    pub(super) fn load(root: &Path) -> Result<Self, String> {
        let root = root
            .canonicalize()
            .map_err(|why| format!("{}: {why}", root.display()))?;
        let output = Command::new(env!("CARGO"))
            .args([
                "metadata",
                "--no-deps",
                "--format-version",
                "1",
                "--offline",
            ])
            .current_dir(&root)
            .output()
            .map_err(|why| format!("cargo metadata: {why}"))?;
        if !output.status.success() {
            return Err(format!(
                "cargo metadata: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        let metadata: Value = serde_json::from_slice(&output.stdout)
            .map_err(|why| format!("cargo metadata: {why}"))?;
        let packages = metadata["packages"]
            .as_array()
            .ok_or("cargo metadata: no packages")?;
        let packages = packages
            .iter()
            .map(|package| load_package(&root, package))
            .collect::<Result<_, _>>()?;
        Ok(Self { packages })
    }
}

fn load_package(root: &Path, package: &Value) -> Result<Package, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let manifest = PathBuf::from(text(&package["manifest_path"]));
    let directory = manifest.parent().unwrap_or(root).to_path_buf();
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    let (test_only, product): (Vec<&Value>, Vec<&Value>) =
        dependencies.partition(|dependency| dependency["kind"] == "dev");
    let names = |dependencies: Vec<&Value>| {
        dependencies
            .iter()
            .map(|dependency| text(&dependency["name"]))
            .collect()
    };
    let mut sources = Vec::new();
    collect(root, &directory.join("src"), Path::new(""), &mut sources)?;
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Package {
        name: text(&package["name"]),
        manifest_text: read(&manifest)?,
        manifest: relative(root, &manifest),
        dependencies: names(product),
        test_dependencies: names(test_only),
        sources,
    })
}

fn collect(
    root: &Path,
    directory: &Path,
    module_path: &Path,
    files: &mut Vec<File>,
) -> Result<(), String> {
    let failed = |why: std::io::Error| format!("{}: {why}", directory.display());
    for entry in directory.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let module_path = module_path.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            collect(root, &path, &module_path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = read(&path)?;
            files.push(File::new(relative(root, &path), module_path, text));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|why| format!("{}: {why}", path.display()))
}

fn relative(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).to_path_buf()
}

/// Trees written down in tests.
#[cfg(test)]
pub(super) mod fixture {
    use super::{File, Package, PathBuf, Tree};

    /// A crate with the given dependencies and files (path below `src`, text).
    pub(crate) fn package(name: &str, dependencies: &[&str], files: &[(&str, &str)]) -> Package {
        let listed: String = dependencies
            .iter()
            .map(|name| format!("{name}.workspace = true\n"))
            .collect();
        let file = |(path, text): &(&str, &str)| {
            File::new(
                PathBuf::from(format!("crates/{name}/src/{path}")),
                PathBuf::from(path),
                format!("//! Docs.\n{text}"),
            )
        };
        Package {
            name: format!("myelin-{name}"),
            manifest: PathBuf::from(format!("crates/{name}/Cargo.toml")),
            manifest_text: format!(
                "[package]\n[dependencies]\n{listed}[lints]\nworkspace = true\n"
            ),
            dependencies: dependencies.iter().map(ToString::to_string).collect(),
            test_dependencies: Vec::new(),
            sources: files.iter().map(file).collect(),
        }
    }

    /// A workspace of one crate.
    pub(crate) fn tree(name: &str, dependencies: &[&str], files: &[(&str, &str)]) -> Tree {
        Tree {
            packages: vec![package(name, dependencies, files)],
        }
    }
}
