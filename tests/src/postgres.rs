//! A PostgreSQL server of the tests: Debian's, on a free port of 127.0.0.1, with its files in a temporary folder. It ends with
//! the process that started it, also with one that is killed.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Names another server to test against, as `postgres://USER@HOST:PORT`; databases are made in it.
pub const GIVEN: &str = "SLUICE_TEST_POSTGRES";

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// `postgres://USER@HOST:PORT`, without a database.
    pub url: String,
    /// The shell that runs it; `None` for one that was given.
    shell: Option<Mutex<Shell>>,
}

#[derive(Debug)]
struct Shell {
    _child: Child,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// Runs a server until its input ends; `stop` and `start` on it do what they say.
const SCRIPT: &str = r#"
folder=$(mktemp -d /tmp/sluice-postgres-XXXXXX)
"$0/initdb" -D "$folder/data" -U postgres -A trust --no-sync >"$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
start() {
  "$0/postgres" -D "$folder/data" -p "$1" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off \
    -c max_connections=300 >>"$folder/log" 2>&1 </dev/null &
  server=$!
  for _ in $(seq 200); do
    "$0/pg_isready" -q -h 127.0.0.1 -p "$1" && { echo started; return; }
    sleep 0.05
  done
  cat "$folder/log"
}
start "$1"
while read -r word; do
  case $word in
    stop) kill -INT $server; wait $server; echo stopped ;;
    start) start "$1" ;;
  esac
done
kill -INT $server; wait $server
rm -rf "$folder"
"#;

impl Server {
    /// The server that all tests share; each takes a database of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var(GIVEN) {
            Ok(url) => Self { url: url.trim_end_matches('/').to_owned(), shell: None },
            Err(_) => Self::start(),
        })
    }

    /// A server of its own, for who stops it.
    pub fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let binaries = binaries();
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|of| std::os::unix::fs::MetadataExt::uid(&of) == 0);
        // PostgreSQL does not run as root.
        let mut command = if is_root {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "sh", "-c", SCRIPT]);
            command
        } else {
            let mut command = Command::new("sh");
            command.args(["-c", SCRIPT]);
            command
        };
        command.arg(&binaries).arg(port.to_string()).current_dir("/");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        let words = child.stdin.take().expect("its input");
        let answers = BufReader::new(child.stdout.take().expect("its output"));
        let mut shell = Shell { _child: child, words, answers };
        shell.expect("started");
        Self { url: format!("postgres://postgres@127.0.0.1:{port}"), shell: Some(Mutex::new(shell)) }
    }

    /// The URL of an empty database.
    pub fn database(&self) -> String {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("sluice_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let made = self.query("postgres", &format!("CREATE DATABASE {name}"));
        assert!(made.is_ok(), "{made:?}");
        format!("{}/{name}", self.url)
    }

    /// Dumps a database and restores it into a new one, with PostgreSQL's own programs; returns the URL of that.
    pub fn restored(&self, url: &str) -> String {
        let dump = std::env::temp_dir().join(format!("sluice-{}.dump", std::process::id()));
        let copy = self.database();
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(binaries().join(program)).args(arguments).arg(&dump).output().expect("it runs");
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        };
        run("pg_dump", &["--format=custom", "--dbname", url, "--file"]);
        run("pg_restore", &["--exit-on-error", "--dbname", &copy]);
        std::fs::remove_file(&dump).expect("it is there");
        copy
    }

    /// Runs a statement in a database by PostgreSQL's own client: an auditor that is not our code. Columns of the rows are
    /// parted by tabs.
    ///
    /// # Errors
    /// With what the client said.
    pub fn query(&self, database: &str, statement: &str) -> Result<Vec<Vec<String>>, String> {
        let url = if database.contains("://") { database.to_owned() } else { format!("{}/{database}", self.url) };
        let mut psql = Command::new(binaries().join("psql"));
        let output = psql.args(["-X", "-A", "-t", "-F", "\t", "-c", statement]).arg(url).output();
        let output = output.map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
    }

    /// Stops a server of its own; what was committed stays.
    pub fn stop(&self) {
        self.say("stop", "stopped");
    }

    /// Starts it again, on the same port.
    pub fn start_again(&self) {
        self.say("start", "started");
    }

    fn say(&self, word: &str, answer: &str) {
        let shell = self.shell.as_ref().expect("a server of its own");
        let mut shell = shell.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(shell.words, "{word}").expect("the shell runs");
        shell.expect(answer);
    }
}

impl Shell {
    fn expect(&mut self, answer: &str) {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the shell answers");
        assert_eq!(line.trim(), answer, "PostgreSQL says something else");
    }
}

/// Where `initdb` is: in the path, or where Debian puts it.
fn binaries() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.filter_map(|version| Some(version.ok()?.path().join("bin"))));
    }
    folders.sort();
    folders.reverse();
    folders.extend(std::env::split_paths(&path));
    let found = folders
        .into_iter()
        .find(|folder| ["initdb", "postgres", "psql"].iter().all(|name| folder.join(name).is_file()));
    found.unwrap_or_else(|| {
        panic!("PostgreSQL is missing: `make test` installs it, or set {GIVEN}=postgres://USER@HOST:PORT")
    })
}
