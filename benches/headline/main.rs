//! The figures that Anchorhold is judged by, each beside its rival in the same run: `cargo bench --bench headline`.
//!
//! Every line `figure: NAME = VALUE UNIT` is a median of rounds; nothing is measured with a setting that is not the
//! default, but for the neighbours, who must share a thread.
//! An argument picks figures whose name contains it.

mod cold;
mod latency;
mod neighbour;
mod put;
mod reveal;
mod rivals;
mod storm;
mod tokens;
mod world;

fn main() {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let runs: [(&str, fn()); 10] = [
        ("token_roundtrip_vs_jwt", tokens::against_jwt),
        ("token_roundtrip_vs_pasetors", tokens::against_pasetors),
        ("token_roundtrip_vs_branca", tokens::against_branca),
        ("token_roundtrip_vs_biscuit", tokens::against_biscuit),
        ("latency_alone", latency::alone),
        ("reveal_1k_vs_limit", reveal::against_limit),
        ("put_1k_vs_sled", put::against_sled),
        ("cold_account resident_account", cold::touch),
        ("refresh_storm", storm::refresh),
        ("noisy_neighbour", neighbour::noisy),
    ];
    for (names, run) in runs {
        if wanted.as_ref().is_none_or(|wanted| names.split(' ').any(|name| name.contains(wanted.as_str()))) {
            run();
        }
    }
}
