//! The specification's OpenAPI files: every answer that these tests get is checked against them.
//!
//! They are read from the directory that `MATRIX_SPEC_DIR` names, the specification's `data`. Without it
//! nothing is checked.

use std::{
    collections::{BTreeMap, HashMap},
    env, error, fs,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
};

use http::{Method, StatusCode};
use jsonschema::{Draft, Retrieve, Uri, Validator};
use serde_json::Value;

/// Where the files are.
const VARIABLE: &str = "MATRIX_SPEC_DIR";

/// The APIs that a homeserver has, and where else endpoints of this server stand.
const APIS: [&str; 2] = ["client-server", "server-server"];

/// All endpoints: what they are called, by path, and in which file they stand.
static ENDPOINTS: LazyLock<Vec<Endpoint>> = LazyLock::new(|| {
    let Some(directory) = env::var_os(VARIABLE) else {
        return Vec::new();
    };
    let apis = APIS.map(|api| Path::new(&directory).join("api").join(api));
    let files = apis.iter().flat_map(|api| {
        let entries = fs::read_dir(api).unwrap_or_else(|why| panic!("{}: {why}", api.display()));
        entries.map(|entry| entry.unwrap().path())
    });
    let is_yaml = |file: &PathBuf| {
        file.extension()
            .is_some_and(|extension| extension == "yaml")
    };
    let endpoints: Vec<_> = files
        .filter(is_yaml)
        .flat_map(|file| index(&file))
        .collect();
    assert!(
        endpoints.len() > 150,
        "{VARIABLE} has {} endpoints",
        endpoints.len()
    );
    endpoints
});

struct Endpoint {
    file: PathBuf,
    /// As it stands in the file.
    path: String,
    segments: Vec<String>,
}

/// The endpoints of a file. A file is read as what it is only when one of them is asked: that takes
/// longer than the tests.
fn index(file: &Path) -> Vec<Endpoint> {
    let text = fs::read_to_string(file).unwrap();
    let base = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("default: /_matrix"))
        .map_or_else(String::new, |rest| format!("/_matrix{rest}"));
    let paths = text.lines().filter_map(|line| {
        let path = line
            .strip_prefix("  ")?
            .strip_suffix(':')?
            .trim_matches('"');
        path.starts_with('/').then(|| path.to_owned())
    });
    paths
        .map(|path| Endpoint {
            file: file.to_owned(),
            segments: segments(&format!("{base}{path}")),
            path,
        })
        .collect()
}

fn segments(path: &str) -> Vec<String> {
    path.split('/').map(str::to_owned).collect()
}

impl Endpoint {
    /// How many segments are parameters, if the path is one of this endpoint.
    fn matches(&self, asked: &[String]) -> Option<usize> {
        let is_parameter = |segment: &str| segment.starts_with('{');
        let mut pairs = self.segments.iter().zip(asked);
        let matches = self.segments.len() == asked.len()
            && pairs.all(|(own, asked)| own == asked || is_parameter(own));
        let parameters = self.segments.iter().filter(|segment| is_parameter(segment));
        matches.then(|| parameters.count())
    }
}

/// Fails if an answer is not what the specification says. Endpoints and statuses of which it says nothing
/// pass.
pub(crate) fn check(method: &Method, path: &str, status: StatusCode, answer: &Value) {
    // Files that name a 401 mean user-interactive authentication; that of tokens is the same everywhere.
    if let Some("M_MISSING_TOKEN" | "M_UNKNOWN_TOKEN") = answer["errcode"].as_str() {
        return;
    }
    let asked = segments(path);
    let matching = ENDPOINTS
        .iter()
        .filter_map(|endpoint| Some((endpoint.matches(&asked)?, endpoint)));
    let Some((_, endpoint)) = matching.min_by_key(|(parameters, _)| *parameters) else {
        return;
    };
    let Some(validator) = validator(endpoint, method, status) else {
        return;
    };
    let errors: BTreeMap<String, String> = validator
        .iter_errors(answer)
        .map(|error| (error.instance_path().to_string(), error.to_string()))
        .filter(|(place, error)| !is_exempt(place, error))
        .collect();
    assert!(
        errors.is_empty(),
        "{method} {path} answers {status} against {}: {errors:#?} in {answer:#}",
        endpoint.file.display(),
    );
}

/// Many answers of a test are of the same kind.
fn validator(endpoint: &Endpoint, method: &Method, status: StatusCode) -> Option<Arc<Validator>> {
    type Kind = (PathBuf, String, Method, StatusCode);
    static BUILT: LazyLock<Mutex<HashMap<Kind, Option<Arc<Validator>>>>> =
        LazyLock::new(Mutex::default);
    let (file, path) = (endpoint.file.clone(), endpoint.path.clone());
    let mut built = BUILT.lock().unwrap();
    let kind = built.entry((file, path, method.clone(), status));
    kind.or_insert_with(|| build(endpoint, method, status).map(Arc::new))
        .clone()
}

fn build(endpoint: &Endpoint, method: &Method, status: StatusCode) -> Option<Validator> {
    let file = read(&endpoint.file).unwrap();
    let method = method.as_str().to_lowercase();
    let response = &file["paths"][&endpoint.path][method]["responses"][status.as_str()];
    let schema = &response["content"]["application/json"]["schema"];
    let mut schema = schema.as_object()?.clone();
    // Schemas refer to this part of their own files.
    schema.insert("components".to_owned(), file["components"].clone());
    let built = jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_base_uri(format!("file://{}", endpoint.file.display()))
        .with_retriever(Files)
        .build(&Value::Object(schema));
    Some(built.unwrap_or_else(|why| panic!("{}: {why}", endpoint.file.display())))
}

/// Where the specification's files say something that does not hold, or other than its reference.
fn is_exempt(place: &str, error: &str) -> bool {
    // Events of room versions from 3 on have no `origin`, and templates of the reference neither.
    let origin = place == "/event" && error.starts_with("\"origin\" is a required");
    // The reference shows members without a name or picture so, and clients expect the fields.
    let nameless = place.starts_with("/joined/") && error.starts_with("null is not of type");
    origin || nameless
}

/// What schemas refer to.
struct Files;

impl Retrieve for Files {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn error::Error + Send + Sync>> {
        read(Path::new(uri.path().as_str()))
    }
}

fn read(file: &Path) -> Result<Value, Box<dyn error::Error + Send + Sync>> {
    Ok(serde_yaml_ng::from_str(&fs::read_to_string(file)?)?)
}
