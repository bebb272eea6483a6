// An OpenID server for tests/oidc.rs: oidc-provider (certified) with rotating refresh tokens, on a port of 127.0.0.1 that it chooses.
//
// usage: node server.mjs ACCESS_TOKEN_SECONDS CLIENT_ID CLIENT_SECRET REDIRECT_URI
//
// Prints its issuer, then serves until its standard input ends, so that it does not outlive the test that started it. Beside the
// provider's own paths there is /counts: how many requests for tokens, revocations and uses there were, and what ended.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';

import Provider from 'oidc-provider';

const [accessTokenSeconds, clientId, clientSecret, redirectUri] = process.argv.slice(2);

const counts = {};
const count = (name) => {
  counts[name] = (counts[name] ?? 0) + 1;
};

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, configuration());
  observe(provider);
  const serve = provider.callback();
  server.on('request', (request, response) => {
    const { pathname } = new URL(request.url, issuer);
    if (pathname === '/counts') {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify(counts));
    } else if (pathname.startsWith('/interaction/')) {
      interact(provider, request, response).catch((error) => {
        console.error(error);
        response.statusCode = 500;
        response.end();
      });
    } else {
      serve(request, response);
    }
  });
  console.log(issuer);
});

process.stdin.on('end', () => process.exit(0));
process.stdin.resume();

function configuration() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const day = 24 * 60 * 60;
  return {
    clients: [
      {
        client_id: clientId,
        client_secret: clientSecret,
        token_endpoint_auth_method: 'client_secret_basic',
        grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'],
        redirect_uris: [redirectUri],
        id_token_signed_response_alg: 'ES256',
      },
    ],
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'ES256' }] },
    cookies: { keys: [randomBytes(32).toString('base64url')] },
    scopes: ['openid', 'offline_access'],
    pkce: { required: () => true },
    rotateRefreshToken: true,
    features: {
      devInteractions: { enabled: false },
      introspection: { enabled: true },
      revocation: { enabled: true },
    },
    interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
    ttl: {
      AccessToken: Number(accessTokenSeconds),
      AuthorizationCode: 60,
      Grant: day,
      IdToken: 60,
      Interaction: 60,
      RefreshToken: day,
      Session: day,
    },
    findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  };
}

// The page that asks the customer: GET shows a form, POST answers it.
async function interact(provider, request, response) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  if (request.method !== 'POST') {
    response.setHeader('content-type', 'text/html');
    response.end(`<form method="post"><button name="answer" value="yes">${prompt.name}</button></form>`);
    return;
  }
  let body = '';
  for await (const chunk of request) body += chunk;
  const answer = async () => {
    if (new URLSearchParams(body).get('answer') !== 'yes') return { error: 'access_denied' };
    if (prompt.name === 'login') return { login: { accountId: 'customer' } };
    const known = grantId ? await provider.Grant.find(grantId) : undefined;
    const grant = known ?? new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    grant.addOIDCScope(params.scope);
    return { consent: { grantId: await grant.save() } };
  };
  await provider.interactionFinished(request, response, await answer(), { mergeWithLastSubmission: true });
}

function observe(provider) {
  const grantType = (ctx) => ctx.oidc?.params?.grant_type ?? 'unknown';
  provider.on('grant.success', (ctx) => count(grantType(ctx)));
  provider.on('grant.error', (ctx, error) => count(`${grantType(ctx)}: ${error.message}`));
  provider.on('grant.revoked', () => count('families of tokens ended'));
  provider.on('refresh_token.consumed', () => count('refresh tokens replaced'));
  provider.on('userinfo.error', () => count('userinfo: refused'));
  provider.on('server_error', (_ctx, error) => {
    count('server errors');
    console.error(error);
  });
  provider.use(async (ctx, next) => {
    await next();
    if (ctx.path === '/me') count('userinfo');
    if (ctx.path === '/token/revocation') count('revocation');
  });
}
