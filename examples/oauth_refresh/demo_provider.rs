//! An OAuth provider in small, on a loopback port: authorization page, token endpoint with rotating refresh tokens and PKCE, and an API
//! that greets whoever the access token names. Tokens are numbers, which no provider should do.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use sha2::{Digest as _, Sha256};

/// How long an access token lives.
pub const LIFETIME: Duration = Duration::from_secs(3);

#[derive(Clone)]
pub struct DemoProvider {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub struct State {
    pub token_requests: u32,
    pub refreshes: u32,
    pub api_requests: u32,
    next: u32,
    /// Of each code, the PKCE challenge that it was given for.
    codes: HashMap<String, String>,
    /// The refresh tokens that are good: a refresh ends the one that it was made with.
    grants: Vec<String>,
    access: HashMap<String, Instant>,
}

impl DemoProvider {
    /// Listens on a free port until the program ends.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let provider = Self { address: listener.local_addr()?, state: Arc::default() };
        let serving = provider.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let provider = serving.clone();
                // A caller that hangs up is its own affair.
                std::thread::spawn(move || provider.answer(&stream));
            }
        });
        Ok(provider)
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The customer's browser: opens the page, agrees, and is sent back. Gives the query that it comes back with.
    pub fn browser_agrees(&self, url: &str) -> Option<String> {
        let asked = form(url.split_once('?')?.1.as_bytes());
        let mut state = self.state();
        state.next += 1;
        let code = format!("code-{}", state.next);
        state.codes.insert(code.clone(), asked.get("code_challenge")?.clone());
        Some(format!("code={code}&state={}", asked.get("state")?))
    }

    /// The customer withdraws the consent at the provider.
    pub fn customer_withdraws(&self) {
        let mut state = self.state();
        state.grants.clear();
        state.access.clear();
    }

    fn answer(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut length, mut bearer) = (0, None);
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().unwrap_or(0);
            } else if name.eq_ignore_ascii_case("authorization") {
                bearer = value.strip_prefix("Bearer ").map(str::to_owned);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let (status, answer) = match path.as_str() {
            "/token" => self.token(&form(&body)),
            _ => self.api(bearer.as_deref()),
        };
        let mut writer = stream;
        write!(
            writer,
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
            answer.len()
        )
    }

    fn token(&self, form: &HashMap<String, String>) -> (&'static str, String) {
        let refused = ("400 Bad Request", r#"{"error":"invalid_grant"}"#.to_owned());
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let mut state = self.state();
        state.token_requests += 1;
        if field("grant_type") == "refresh_token" {
            state.refreshes += 1;
            let Some(at) = state.grants.iter().position(|token| token == field("refresh_token")) else { return refused };
            state.grants.remove(at);
        } else {
            let challenge = Base64UrlUnpadded::encode_string(&Sha256::digest(field("code_verifier")));
            if state.codes.remove(field("code")) != Some(challenge) {
                return refused;
            }
        }
        state.next += 1;
        let (access, refresh) = (format!("access-{}", state.next), format!("refresh-{}", state.next));
        state.access.insert(access.clone(), Instant::now() + LIFETIME);
        state.grants.push(refresh.clone());
        let answer = format!(
            r#"{{"access_token":"{access}","refresh_token":"{refresh}","token_type":"Bearer","expires_in":{}}}"#,
            LIFETIME.as_secs()
        );
        ("200 OK", answer)
    }

    fn api(&self, bearer: Option<&str>) -> (&'static str, String) {
        let mut state = self.state();
        state.api_requests += 1;
        match bearer.and_then(|token| state.access.get(token)) {
            Some(until) if Instant::now() < *until => ("200 OK", format!("hello, {}", bearer.unwrap_or_default())),
            _ => ("401 Unauthorized", "who are you?".to_owned()),
        }
    }
}

fn form(body: &[u8]) -> HashMap<String, String> {
    form_urlencoded::parse(body).into_owned().collect()
}
