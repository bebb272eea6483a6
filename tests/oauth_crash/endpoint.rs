//! Three providers on one loopback port: refresh tokens that stay, that are replaced with a grace, and that are replaced at once.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

pub const KINDS: [&str; 3] = ["fixed", "grace", "rotating"];

pub struct Endpoint {
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    /// Counts the openings of the vault; access tokens of an earlier one have expired.
    phase: u64,
    delay: Duration,
    counter: u64,
    /// How often each refresh token was sent.
    grants: HashMap<String, u64>,
    /// The phase of each access token.
    access: HashMap<String, u64>,
    /// Requests for tokens by kind and phase.
    requests: HashMap<(String, u64), u64>,
    stale_uses: u64,
}

impl Endpoint {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Shared>::default();
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (shared, stream) = (Arc::clone(&serving), stream.unwrap());
                // A client that was killed in the middle of a request ends its own thread only.
                std::thread::spawn(move || drop(serve(&stream, &shared)));
            }
        });
        Self { port, shared }
    }

    /// Time passes: every access token that was given out has expired.
    pub fn next_phase(&self) -> u64 {
        let mut state = self.shared.state.lock().unwrap();
        state.phase += 1;
        state.phase
    }

    pub fn delay_answers(&self, delay: Duration) {
        self.shared.state.lock().unwrap().delay = delay;
    }

    /// A new refresh token, as if a customer had agreed.
    pub fn grant(&self, kind: &str) -> String {
        let mut state = self.shared.state.lock().unwrap();
        state.counter += 1;
        let token = format!("{kind}-refresh-{}", state.counter);
        state.grants.insert(token.clone(), 0);
        token
    }

    /// Waits until so many requests for tokens have come in this phase; says whether they did.
    pub fn wait_for_requests(&self, wanted: u64) -> bool {
        let state = self.shared.state.lock().unwrap();
        let all = |state: &State| KINDS.iter().map(|kind| state.requests_of(kind, state.phase)).sum::<u64>();
        let waited = self.shared.arrived.wait_timeout_while(state, Duration::from_secs(20), |state| all(state) < wanted);
        !waited.unwrap().1.timed_out()
    }

    pub fn requests(&self, kind: &str, phase: u64) -> u64 {
        self.shared.state.lock().unwrap().requests_of(kind, phase)
    }

    /// How often a refresh token that a provider of this kind had replaced was sent again.
    pub fn repeated(&self, kind: &str) -> u64 {
        let state = self.shared.state.lock().unwrap();
        let sent = state.grants.iter().filter(|(token, _)| token.starts_with(kind));
        sent.map(|(_, sent)| sent.saturating_sub(1)).sum()
    }

    /// How often an access token was used that had expired.
    pub fn stale_uses(&self) -> u64 {
        self.shared.state.lock().unwrap().stale_uses
    }
}

impl State {
    fn requests_of(&self, kind: &str, phase: u64) -> u64 {
        self.requests.get(&(kind.to_owned(), phase)).copied().unwrap_or_default()
    }

    /// Status and body for a request for tokens.
    fn token(&mut self, kind: &str, phase: u64, body: &[u8]) -> (u16, String) {
        *self.requests.entry((kind.to_owned(), phase)).or_default() += 1;
        let form: HashMap<_, _> = form_urlencoded::parse(body).into_owned().collect();
        let sent = form.get("refresh_token").and_then(|token| self.grants.get_mut(token));
        let Some(sent) = sent else { return (400, r#"{"error":"invalid_grant"}"#.into()) };
        *sent += 1;
        if kind == "rotating" && *sent > 1 {
            return (400, r#"{"error":"invalid_grant"}"#.into());
        }
        self.counter += 1;
        let access = format!("{kind}-access-{}", self.counter);
        self.access.insert(access.clone(), phase);
        let mut answer = format!(r#"{{"access_token":"{access}","token_type":"Bearer","expires_in":3600"#);
        if kind != "fixed" {
            let refresh = format!("{kind}-refresh-{}", self.counter);
            write!(answer, r#","refresh_token":"{refresh}""#).unwrap();
            self.grants.insert(refresh, 0);
        }
        (200, answer + "}")
    }

    /// The status for a use of the API.
    fn api(&mut self, phase: u64, bearer: &str) -> u16 {
        match self.access.get(bearer) {
            Some(of) if *of == phase => 200,
            _ => {
                self.stale_uses += 1;
                401
            }
        }
    }
}

/// Serves one connection until the client is gone.
fn serve(mut stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    // What a killed process has sent is of its own time, also when it is read later.
    let phase = shared.state.lock().unwrap().phase;
    let mut reader = BufReader::new(stream);
    loop {
        let (mut path, mut bearer, mut length) = (String::new(), String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if path.is_empty() {
                line.split(' ').nth(1).unwrap_or_default().clone_into(&mut path);
            } else if let Some((name, value)) = line.split_once(": ") {
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.parse().unwrap_or_default(),
                    "authorization" => value.trim_start_matches("Bearer ").clone_into(&mut bearer),
                    _ => {}
                }
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let kind = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let mut state = shared.state.lock().unwrap();
        let (status, text, delay) = if path.ends_with("/token") {
            let (status, text) = state.token(kind, phase, &body);
            shared.arrived.notify_all();
            (status, text, state.delay)
        } else {
            (state.api(phase, &bearer), "{}".to_owned(), Duration::ZERO)
        };
        drop(state);
        std::thread::sleep(delay);
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", text.len());
        stream.write_all((head + &text).as_bytes())?;
    }
}
