//! A bundle: the directory that says what a function runs and how it is called (`docs/protocol.md`, section 1).
//!
//! The downloader publishes it whole, but parts of `config.json` come from a stranger's image, and a bundle may be older or
//! newer than this monitor. So every field is checked here, once, and a refusal names the file and the field.
//! Invariants of a `Bundle`: no string holds a NUL byte, `args` is not empty, `cwd` and `root` are absolute.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::network::policy::{Given, Policy};

/// The largest file that is read, bytes.
const LARGEST: u64 = 1 << 20;
/// The version of `function.json` that this monitor understands.
const VERSION: u64 = 1;
const CONFIG: &str = "config.json";
const FUNCTION: &str = "function.json";

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: larger than {LARGEST} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("{}: not JSON: {source}", path.display())]
    NotJson {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(
        "{file}: version {found} is not {VERSION}, the one this monitor understands: republish the function"
    )]
    Version { file: &'static str, found: Value },
    #[error("{file}: {field}: {problem}")]
    Field {
        file: &'static str,
        field: String,
        problem: String,
    },
}

/// How a call reaches the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Contract {
    /// The program serves HTTP on its port.
    Http,
    /// The body is the program's stdin, its stdout the answer.
    Stdin,
    /// The request is JSON in `/.request`, the answer JSON in `/.reply`.
    Kontain,
}

/// `function.json`: how the function is called. Fields as in `docs/protocol.md`.
#[derive(Clone, Debug)]
#[expect(
    dead_code,
    reason = "some are for the server; all are checked, so that both mean the same bundle"
)]
pub struct FunctionSpec {
    pub namespace: String,
    pub name: String,
    pub revision: String,
    pub image: String,
    pub reference: String,
    pub contract: Contract,
    pub port: u16,
    pub timeout_ms: u64,
    pub memory_bytes: u64,
    pub concurrency: u32,
    pub pool: u32,
    /// Whether example calls may be made after a boot, to find what repeats.
    pub check: bool,
    pub network: Policy,
}

/// What `config.json` says of the program. Strings hold no NUL.
#[derive(Clone, Debug)]
pub struct Program {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

#[derive(Clone, Debug)]
pub struct Bundle {
    pub function: FunctionSpec,
    pub program: Program,
    /// The unpacked image: an absolute path to an existing directory.
    pub root: PathBuf,
}

impl Bundle {
    /// Reads and checks the bundle in `directory`.
    pub fn read(directory: &Path) -> Result<Self, BundleError> {
        let function = function_spec(read_json(&directory.join(FUNCTION))?)?;
        let config = Object::top(CONFIG, read_json(&directory.join(CONFIG))?)?;
        let program = program(&config.object("process")?)?;
        let root = root(&config.object("root")?, directory)?;
        Ok(Self {
            function,
            program,
            root,
        })
    }
}

fn read_json(path: &Path) -> Result<Value, BundleError> {
    let read = |source| BundleError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(read)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(read)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LARGEST) {
        return Err(BundleError::TooLarge {
            path: path.to_owned(),
        });
    }
    serde_json::from_slice(&bytes).map_err(|source| BundleError::NotJson {
        path: path.to_owned(),
        source,
    })
}

fn function_spec(value: Value) -> Result<FunctionSpec, BundleError> {
    let mut object = Object::top(FUNCTION, value)?;
    // First of all: what another version means by its fields is not known.
    let version = object.fields.remove("version").unwrap_or(Value::Null);
    if version.as_u64() != Some(VERSION) {
        return Err(BundleError::Version {
            file: FUNCTION,
            found: version,
        });
    }
    let spec = FunctionSpec {
        namespace: object.take_checked("namespace", "a DNS-1123 label", is_label)?,
        name: object.take_checked("name", "a DNS-1123 label", is_label)?,
        revision: object.take_checked("revision", "16 hex digits", |text| is_hex(text, 16))?,
        image: object.take_checked("image", "sha256: and 64 hex digits", |text| {
            text.strip_prefix("sha256:")
                .is_some_and(|digits| is_hex(digits, 64))
        })?,
        reference: object.take("reference")?,
        contract: object.take("contract")?,
        port: object.take_at_least("port", 1)?,
        timeout_ms: object.take_at_least("timeout_ms", 1)?,
        memory_bytes: object.take_at_least("memory_bytes", 1)?,
        concurrency: object.take_at_least("concurrency", 1)?,
        pool: object.take("pool")?,
        check: object.get_or("check", false)?,
        network: network(&mut object)?,
    };
    object.fields.remove("check");
    let runtime: Option<String> = object.get_or("runtime", None)?;
    object.fields.remove("runtime");
    if let Some(name) = runtime {
        return Err(object.problem("runtime", format!("{name:?} is an OCI runtime, and this is none")));
    }
    match object.fields.keys().next() {
        None => Ok(spec),
        Some(unknown) => Err(object.problem(unknown, format!("not a field of version {VERSION}"))),
    }
}

/// `network`, which a bundle of before may lack: none.
fn network(object: &mut Object) -> Result<Policy, BundleError> {
    let given: Vec<Given> = object.get_or("network", Vec::new())?;
    object.fields.remove("network");
    Policy::new(&given).map_err(|problem| object.problem("network", problem))
}

fn program(process: &Object) -> Result<Program, BundleError> {
    let args: Vec<String> = process.get("args")?;
    if args.is_empty() {
        return Err(process.problem("args", "must name the program"));
    }
    let env: Vec<String> = process.get_or("env", Vec::new())?;
    if let Some(wrong) = env.iter().find(|entry| entry.find('=').is_none_or(|at| at == 0)) {
        return Err(process.problem("env", format!("{wrong:?} is not NAME=value")));
    }
    let cwd: String = process.get("cwd")?;
    if !cwd.starts_with('/') {
        return Err(process.problem("cwd", format!("{cwd:?} is not absolute")));
    }
    for (name, texts) in [
        ("args", &args[..]),
        ("env", &env[..]),
        ("cwd", std::slice::from_ref(&cwd)),
    ] {
        if let Some(wrong) = texts.iter().find(|text| text.contains('\0')) {
            return Err(process.problem(name, format!("{wrong:?} holds a NUL byte")));
        }
    }
    let user = process.object("user")?;
    Ok(Program {
        args,
        env,
        cwd,
        uid: user.get("uid")?,
        gid: user.get("gid")?,
        groups: user.get_or("additionalGids", Vec::new())?,
    })
}

fn root(object: &Object, bundle: &Path) -> Result<PathBuf, BundleError> {
    let path: PathBuf = object.get("path")?;
    let problem = |text: String| object.problem("path", format!("{}: {text}", path.display()));
    // Canonical, so that it still means the same when the working directory changes or a link above it moves.
    let root = bundle
        .join(&path)
        .canonicalize()
        .map_err(|error| problem(error.to_string()))?;
    if root.is_dir() {
        Ok(root)
    } else {
        Err(problem("not a directory".to_owned()))
    }
}

/// A JSON object and where it was found, for messages.
struct Object {
    file: &'static str,
    path: String,
    fields: Map<String, Value>,
}

impl Object {
    fn top(file: &'static str, value: Value) -> Result<Self, BundleError> {
        match value {
            Value::Object(fields) => Ok(Self {
                file,
                path: String::new(),
                fields,
            }),
            _ => Err(BundleError::Field {
                file,
                field: "(whole file)".to_owned(),
                problem: "not an object".to_owned(),
            }),
        }
    }

    fn problem(&self, name: &str, problem: impl Into<String>) -> BundleError {
        BundleError::Field {
            file: self.file,
            field: format!("{}{name}", self.path),
            problem: problem.into(),
        }
    }

    fn object(&self, name: &str) -> Result<Self, BundleError> {
        let fields = self.get(name)?;
        Ok(Self {
            file: self.file,
            path: format!("{}{name}.", self.path),
            fields,
        })
    }

    fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T, BundleError> {
        let value = self
            .fields
            .get(name)
            .ok_or_else(|| self.problem(name, "missing"))?;
        T::deserialize(value).map_err(|error| self.problem(name, error.to_string()))
    }

    fn get_or<T: DeserializeOwned>(&self, name: &str, default: T) -> Result<T, BundleError> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(_) => self.get(name),
        }
    }

    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, BundleError> {
        let value = self.get(name)?;
        self.fields.remove(name);
        Ok(value)
    }

    fn take_checked(
        &mut self,
        name: &str,
        rule: &str,
        check: impl Fn(&str) -> bool,
    ) -> Result<String, BundleError> {
        let text: String = self.take(name)?;
        if check(&text) {
            Ok(text)
        } else {
            Err(self.problem(name, format!("{text:?} is not {rule}")))
        }
    }

    fn take_at_least<T: DeserializeOwned + PartialOrd + From<u8>>(
        &mut self,
        name: &str,
        least: u8,
    ) -> Result<T, BundleError> {
        let number: T = self.take(name)?;
        if number < T::from(least) {
            return Err(self.problem(name, format!("must be at least {least}")));
        }
        Ok(number)
    }
}

/// Lower-case letters, digits and inner hyphens, 1 to 63.
fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::json;

    use super::*;

    /// A bundle on disk that is removed at the end of its test.
    struct Dir(PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn function() -> Value {
        json!({
            "version": 1, "namespace": "default", "name": "hello", "revision": "0123456789abcdef",
            "image": format!("sha256:{}", "ab".repeat(32)), "reference": "docker://host/hello:1",
            "contract": "http", "port": 8080, "timeout_ms": 60000, "memory_bytes": 268_435_456_u64,
            "concurrency": 64, "pool": 4,
        })
    }

    fn config() -> Value {
        json!({
            "ociVersion": "1.0.2", "hostname": "ignored",
            "process": {
                "args": ["/bin/hello", "-v"], "env": ["A=1", "EMPTY="], "cwd": "/app",
                "user": {"uid": 1000, "gid": 100, "additionalGids": [50, 51]}, "terminal": false,
            },
            "root": {"path": "rootfs", "readonly": true},
        })
    }

    fn bundle(function: &Value, config: &Value) -> (Dir, Result<Bundle, BundleError>) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mayfly-bundle-{}-{number}", std::process::id()));
        fs::create_dir_all(path.join("rootfs")).unwrap();
        fs::write(path.join(FUNCTION), function.to_string()).unwrap();
        fs::write(path.join(CONFIG), config.to_string()).unwrap();
        let read = Bundle::read(&path);
        (Dir(path), read)
    }

    fn refused(function: &Value, config: &Value) -> String {
        bundle(function, config).1.unwrap_err().to_string()
    }

    #[test]
    fn a_bundle_is_read() {
        let (dir, bundle) = bundle(&function(), &config());
        let bundle = bundle.unwrap();
        assert_eq!(bundle.program.args, ["/bin/hello", "-v"]);
        assert_eq!((bundle.program.uid, bundle.program.gid), (1000, 100));
        assert_eq!(bundle.program.groups, [50, 51]);
        assert_eq!(bundle.program.env, ["A=1", "EMPTY="]);
        assert_eq!(bundle.root, dir.0.canonicalize().unwrap().join("rootfs"));
        assert_eq!(
            (bundle.function.contract, bundle.function.port),
            (Contract::Http, 8080)
        );
        assert_eq!(bundle.function.memory_bytes, 256 << 20);
    }

    #[test]
    fn every_field_of_the_specification_is_needed() {
        for name in function().as_object().unwrap().keys() {
            let mut function = function();
            function.as_object_mut().unwrap().remove(name);
            let error = refused(&function, &config());
            assert!(
                error.starts_with("function.json: ") && error.contains(name.as_str()),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn a_wrong_field_is_named_with_the_rule() {
        let cases = [
            ("version", json!(2), "version 2 is not 1"),
            ("version", json!("1"), "version \"1\" is not 1"),
            (
                "namespace",
                json!("A"),
                "namespace: \"A\" is not a DNS-1123 label",
            ),
            ("name", json!("../x"), "name: \"../x\" is not a DNS-1123 label"),
            ("name", json!("-a"), "name"),
            ("name", json!("a".repeat(64)), "name"),
            (
                "revision",
                json!("0123"),
                "revision: \"0123\" is not 16 hex digits",
            ),
            ("image", json!("sha256:../../x"), "image"),
            ("contract", json!("ftp"), "contract: unknown variant `ftp`"),
            ("port", json!(0), "port: must be at least 1"),
            ("port", json!(70000), "port: invalid value"),
            ("timeout_ms", json!(0), "timeout_ms: must be at least 1"),
            (
                "memory_bytes",
                json!("256Mi"),
                "memory_bytes: invalid type: string \"256Mi\", expected u64",
            ),
            ("concurrency", json!(-1), "concurrency"),
            ("pool", json!(null), "pool"),
            ("extra", json!(1), "extra: not a field of version 1"),
        ];
        for (name, value, expected) in cases {
            let mut function = function();
            function[name] = value;
            let error = refused(&function, &config());
            assert!(
                error.starts_with("function.json: ") && error.contains(expected),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn a_wrong_field_of_the_configuration_is_named_with_its_path() {
        let cases = [
            (
                "/process/args",
                json!([]),
                "config.json: process.args: must name the program",
            ),
            (
                "/process/args",
                json!(["a", 1]),
                "config.json: process.args: invalid type",
            ),
            (
                "/process/args",
                json!(["a\0b"]),
                "config.json: process.args: \"a\\0b\" holds a NUL byte",
            ),
            (
                "/process/env",
                json!(["=x"]),
                "config.json: process.env: \"=x\" is not NAME=value",
            ),
            (
                "/process/env",
                json!(["x"]),
                "config.json: process.env: \"x\" is not NAME=value",
            ),
            (
                "/process/cwd",
                json!("app"),
                "config.json: process.cwd: \"app\" is not absolute",
            ),
            (
                "/process/user",
                json!({"uid": -1, "gid": 0}),
                "config.json: process.user.uid: invalid value",
            ),
            (
                "/process/user",
                json!({"uid": 0}),
                "config.json: process.user.gid: missing",
            ),
            (
                "/process/user",
                json!({"uid": 0, "gid": 0, "additionalGids": [-1]}),
                "config.json: process.user.additionalGids: invalid value",
            ),
            ("/process", json!([]), "config.json: process: invalid type"),
            (
                "/root/path",
                json!("absent"),
                "config.json: root.path: absent: No such file",
            ),
            (
                "/root/path",
                json!("config.json"),
                "config.json: root.path: config.json: not a directory",
            ),
        ];
        for (pointer, value, expected) in cases {
            let mut config = config();
            *config.pointer_mut(pointer).unwrap() = value;
            let error = refused(&function(), &config);
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn what_is_no_bundle_is_refused() {
        let absent = Bundle::read(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(
            absent.starts_with("/nonexistent/function.json: No such file"),
            "{absent}"
        );
        assert!(refused(&json!([]), &config()).contains("not an object"));
        let (dir, _) = bundle(&function(), &config());
        fs::write(dir.0.join(CONFIG), "{").unwrap();
        assert!(matches!(Bundle::read(&dir.0), Err(BundleError::NotJson { .. })));
        fs::write(dir.0.join(CONFIG), vec![b' '; 2 << 20]).unwrap();
        assert!(matches!(Bundle::read(&dir.0), Err(BundleError::TooLarge { .. })));
    }
}
