//! Draws the curves over all runs that are kept.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Outcome;
use crate::run::{Run, kept, path};

const SIZE: (u32, u32) = (760, 420);

/// Seen on white and on dark pages alike: the background is drawn.
const PAPER: RGBColor = WHITE;
const INK: RGBColor = RGBColor(40, 40, 48);
const COLOURS: [RGBColor; 4] = [RGBColor(0, 95, 163), RGBColor(196, 78, 0), RGBColor(0, 121, 75), RGBColor(139, 58, 158)];

type Curve = (String, Vec<(f64, f64)>);

pub fn draw() -> Outcome<()> {
    let runs: Vec<Run> = kept()?.into_values().collect();
    if runs.is_empty() {
        return Err("no run is kept yet: give --accounts".into());
    }
    let over_accounts = |figure: &str, told: &str| -> Curve {
        let points = runs.iter().filter_map(|run| Some((run.accounts as f64, run.get(figure)?))).collect();
        (told.into(), points)
    };
    let creating = runs.iter().map(|run| {
        let tenths = (1..=10).filter_map(|tenth| {
            let rate = run.get(&format!("create_tenth_{tenth}_per_s"))?;
            Some((run.accounts as f64 * f64::from(tenth) / 10.0, rate))
        });
        (format!("up to {}", grouped(run.accounts as f64)), tenths.collect())
    });
    chart("scale-create.svg", "Creating accounts with three connections", "accounts a second", creating.collect())?;
    let mint = [
        over_accounts("mint_scattered_p50_us", "of accounts all over the vault"),
        over_accounts("mint_together_p50_us", "of accounts made together"),
    ];
    chart("scale-mint.svg", "Minting for 1,000 hot accounts, one caller, median", "microseconds", mint.into())?;
    let reveal = [
        over_accounts("reveal_scattered_p50_us", "of accounts all over the vault"),
        over_accounts("reveal_together_p50_us", "of accounts made together"),
    ];
    chart("scale-reveal.svg", "Revealing for 1,000 hot accounts, one caller, median", "microseconds", reveal.into())?;
    let opening = [
        over_accounts("open_s", "open"),
        over_accounts("close_s", "close after use"),
        over_accounts("close_after_create_s", "close after creating all"),
    ];
    chart("scale-open.svg", "Opening and closing the vault", "seconds", opening.into())?;
    let memory = [over_accounts("rss_after_touch_mib", "a fresh process after touching 10,000 accounts")];
    chart("scale-memory.svg", "Resident memory", "MiB", memory.into())?;
    let disk = [over_accounts("disk_per_account_kib", "all files of the vault / accounts")];
    chart("scale-disk.svg", "Disk per account with three connections", "KiB", disk.into())
}

fn chart(file: &str, title: &str, unit: &str, curves: Vec<Curve>) -> Outcome<()> {
    let path = path(file);
    let root = SVGBackend::new(&path, SIZE).into_drawing_area();
    lines(&root, title, unit, &curves)?;
    Ok(root.present()?)
}

fn lines(root: &DrawingArea<SVGBackend<'_>, Shift>, title: &str, unit: &str, curves: &[Curve]) -> Outcome<()> {
    let points = || curves.iter().flat_map(|(_, points)| points);
    let (least, most) = points().fold((f64::MAX, 1.0_f64), |(least, most), (x, _)| (least.min(*x), most.max(*x)));
    // From one power of ten to another, which are what the axis names; and room for the legend above.
    let (from, to) = (10_f64.powf(least.log10().floor()), 10_f64.powf(most.log10().ceil()));
    let top = points().fold(0.0_f64, |top, (_, y)| top.max(*y)) * 1.4;
    root.fill(&PAPER)?;
    let text = |size: u32| ("sans-serif", size).into_font().color(&INK);
    let mut chart = ChartBuilder::on(root)
        .margin(14)
        .caption(title, text(20))
        .x_label_area_size(46)
        .y_label_area_size(72)
        .build_cartesian_2d((from * 0.9..to * 1.1).log_scale(), 0.0..top)?;
    chart
        .configure_mesh()
        .axis_style(INK)
        .bold_line_style(INK.mix(0.18))
        .light_line_style(INK.mix(0.05))
        .x_labels(4)
        .x_desc("linked accounts in the vault")
        .y_desc(unit)
        .x_label_formatter(&|x| grouped(*x))
        .y_label_formatter(&|y| if top < 10.0 { format!("{y:.2}") } else { grouped(*y) })
        .label_style(text(14))
        .axis_desc_style(text(15))
        .draw()?;
    for ((told, points), colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(4))?
            .label(told)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(PAPER.mix(0.9))
        .border_style(INK.mix(0.4))
        .label_font(text(14))
        .draw()?;
    Ok(())
}

/// 30000 as 30,000.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
