//! Tokens of other crates, each minted and checked once by a call: who, an id, when it expires and two grants, under one key for all
//! customers, without revocation and without an audit. The versions are those of `Cargo.lock`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

const LIFETIME: Duration = Duration::from_secs(900);
const ID: &str = "0123456789abcdef012345";
const GRANTS: [&str; 2] = ["list", "connect"];

/// What a token says where its crate leaves the content to the caller.
#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    jti: String,
    iat: u64,
    exp: u64,
    grants: Vec<String>,
}

impl Claims {
    fn of(customer: usize) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let grants = GRANTS.map(str::to_owned).into();
        Self { sub: subject(customer), jti: ID.into(), iat: now, exp: now + LIFETIME.as_secs(), grants }
    }
}

fn subject(customer: usize) -> String {
    format!("customer-{customer}")
}

/// HS256: signed, readable for everybody.
pub fn jsonwebtoken() -> impl Fn(usize) + Send + Sync + 'static {
    use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
    let (encoding, decoding) = (EncodingKey::from_secret(&[7; 32]), DecodingKey::from_secret(&[7; 32]));
    let validation = Validation::new(Algorithm::HS256);
    move |customer| {
        let token = encode(&Header::new(Algorithm::HS256), &Claims::of(customer), &encoding).expect("a JWT");
        let claims = decode::<Claims>(&token, &decoding, &validation).expect("the JWT's claims").claims;
        assert_eq!(claims.grants.len(), GRANTS.len());
    }
}

/// v4.local: a stream cipher and a keyed hash, with the crate's own claims and rules.
pub fn pasetors() -> impl Fn(usize) + Send + Sync + 'static {
    use pasetors::claims::{Claims, ClaimsValidationRules};
    use pasetors::{Local, keys::SymmetricKey, local, token::UntrustedToken, version4::V4};
    let key = SymmetricKey::<V4>::from(&[7; 32]).expect("a key");
    let rules = ClaimsValidationRules::new();
    move |customer| {
        let mut claims = Claims::new_expires_in(&LIFETIME).expect("claims");
        claims.subject(&subject(customer)).expect("a subject");
        claims.token_identifier(ID).expect("an id");
        claims.add_additional("grants", GRANTS.to_vec()).expect("grants");
        let token = local::encrypt(&key, &claims, None, None).expect("a PASETO");
        let untrusted = UntrustedToken::<Local, V4>::try_from(&token).expect("a PASETO");
        let trusted = local::decrypt(&key, &untrusted, &rules, None, None).expect("the PASETO's claims");
        assert!(trusted.payload_claims().is_some_and(|claims| claims.contains_claim("grants")));
    }
}

/// XChaCha20-Poly1305 in base 62, around the same claims as JSON.
pub fn branca() -> impl Fn(usize) + Send + Sync + 'static {
    let key = [7; 32];
    move |customer| {
        let claims = Claims::of(customer);
        let plain = serde_json::to_vec(&claims).expect("JSON");
        let token = branca::encode(&plain, &key, claims.iat as u32).expect("a Branca token");
        let plain = branca::decode(&token, &key, LIFETIME.as_secs() as u32).expect("the token's content");
        let claims: Claims = serde_json::from_slice(&plain).expect("claims");
        assert_eq!(claims.grants.len(), GRANTS.len());
    }
}

/// Ed25519 over facts and checks, which a logic program judges.
pub fn biscuit() -> impl Fn(usize) + Send + Sync + 'static {
    use biscuit_auth::builder::{fact, string};
    use biscuit_auth::builder_ext::BuilderExt as _;
    use biscuit_auth::{AuthorizerBuilder, AuthorizerLimits, Biscuit, KeyPair};
    let root = KeyPair::new();
    // The default of a millisecond is passed by a thread that waits for its core.
    let limits = AuthorizerLimits { max_time: Duration::from_secs(10), ..Default::default() };
    move |customer| {
        let mut builder = Biscuit::builder()
            .fact(fact("account", &[string(&subject(customer))]))
            .and_then(|builder| builder.fact(fact("id", &[string(ID)])))
            .expect("facts");
        for grant in GRANTS {
            builder = builder.fact(fact("grant", &[string(grant)])).expect("a fact");
        }
        let token = builder.check_expiration_date(SystemTime::now() + LIFETIME).build(&root).expect("a biscuit");
        let token = token.to_base64().expect("its text");

        let token = Biscuit::from_base64(&token, root.public()).expect("a signed biscuit");
        let authorizer = AuthorizerBuilder::new().time().set_limits(limits.clone()).policy(r#"allow if grant("list")"#);
        authorizer.expect("a policy").build(&token).expect("an authorizer").authorize().expect("it allows");
    }
}
