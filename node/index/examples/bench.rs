//! Prints median search times of the exact kernels and of HNSW, side by side: `cargo run --release -p docent-index --example index-bench`.
//!
//! Rows are clustered, norms fall off as popularity does (study/vector-search.md, gen.py, simplified). Wall clock on an idle machine;
//! add `quick` to leave HNSW at 100 k out (its build takes about half a minute).
#![allow(clippy::disallowed_methods, reason = "a benchmark times with the real clock")]

use std::time::Instant;

use docent_index::{Bitmap, EngineChoice, Exact, ItemIndex, Kernel, Probe, Segment, Settings};

const DIM: usize = 64;
const QUERIES: usize = 101;

type Failure = Box<dyn std::error::Error>;

/// A linear congruential generator (Knuth's MMIX constants): the bench needs spread, not quality.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    fn vector(&mut self, scale: f32) -> Vec<f32> {
        (0..DIM).map(|_| (self.uniform() + self.uniform() - 1.0) * scale).collect()
    }
}

fn rows(count: usize, random: &mut Random) -> Vec<Vec<f32>> {
    let centres: Vec<Vec<f32>> = (0..200).map(|_| random.vector(1.0)).collect();
    let mut row = |rank: usize| {
        let norm = 1.0 + (count as f32 / (rank as f32 + 1.0)).ln() / 8.0;
        let centre = &centres[rank.wrapping_mul(7919) % centres.len()];
        random.vector(0.7).iter().zip(centre).map(|(noise, centre)| (noise + centre) * norm).collect()
    };
    (0..count).map(&mut row).collect()
}

/// Median over the queries, each after one unmeasured search.
fn median_us(segment: &dyn Segment, queries: &[Vec<f32>], k: usize, allowed: &Bitmap) -> Result<f64, Failure> {
    let mut times = Vec::with_capacity(queries.len());
    for query in queries {
        segment.search(query, k, allowed)?;
        let start = Instant::now();
        std::hint::black_box(segment.search(query, k, allowed)?);
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn report(label: &str, segment: &dyn Segment, queries: &[Vec<f32>], filters: &[Bitmap]) -> Result<(), Failure> {
    print!("{label:<24}");
    for k in [10, 100] {
        print!(" {:>9.1}", median_us(segment, queries, k, &filters[0])?);
    }
    for allowed in &filters[1..] {
        print!(" {:>9.1}", median_us(segment, queries, 10, allowed)?);
    }
    let probes: Vec<Probe<'_>> = queries.iter().take(64).map(|query| Probe { query, allowed: &filters[0] }).collect();
    let start = Instant::now();
    std::hint::black_box(segment.search_batch(&probes, 10)?);
    println!(" {:>9.1}", start.elapsed().as_secs_f64() * 1e6 / probes.len() as f64);
    Ok(())
}

#[cfg(feature = "faiss")]
fn report_hnsw(rows: &[Vec<f32>], queries: &[Vec<f32>], filters: &[Bitmap]) -> Result<(), Failure> {
    use docent_index::{Hnsw, HnswSettings};
    for m in [16, 32] {
        let settings = HnswSettings { m, recall_floor: 0.0, ..HnswSettings::default() };
        let start = Instant::now();
        let hnsw = Hnsw::build(&settings, Exact::build(DIM, rows)?).map_err(|(_, refusal)| refusal)?;
        let built = start.elapsed().as_secs_f64();
        report(&format!("hnsw m={m} ef={}", settings.ef_search), &hnsw, queries, filters)?;
        println!("{:<24} built in {built:.1} s, recall@10 {:.3} on its own sample", "", hnsw.recall());
    }
    Ok(())
}

#[cfg(not(feature = "faiss"))]
fn report_hnsw(_rows: &[Vec<f32>], _queries: &[Vec<f32>], _filters: &[Bitmap]) -> Result<(), Failure> {
    Ok(())
}

/// What an item costs while it waits in the overlay.
fn report_overlay(rows: &[Vec<f32>], queries: &[Vec<f32>]) -> Result<(), Failure> {
    let index = ItemIndex::build(EngineChoice::Exact, &Settings::default(), DIM, Vec::new())?;
    let start = Instant::now();
    for (row, vector) in rows.iter().take(1000).enumerate() {
        index.upsert(&format!("item-{row}"), vector)?;
    }
    let upsert_us = start.elapsed().as_secs_f64() * 1e6 / 1000.0;
    let mut times = Vec::new();
    for query in queries {
        let start = Instant::now();
        std::hint::black_box(index.search(query, 10, &[])?);
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    println!("overlay of 1000 x {DIM}: {:.1} us a query, {upsert_us:.2} us an upsert", times[times.len() / 2]);
    Ok(())
}

fn main() -> Result<(), Failure> {
    let is_quick = std::env::args().any(|argument| argument == "quick");
    let mut random = Random(1);
    for count in [10_000, 100_000] {
        let rows = rows(count, &mut random);
        let queries: Vec<Vec<f32>> = (0..QUERIES)
            .map(|q| rows[q * 97 % count].iter().zip(&random.vector(0.7)).map(|(row, noise)| row + noise).collect())
            .collect();
        let mut filters = vec![Bitmap::all(count)];
        for excluded in [0.01, 0.5, 0.9, 0.97, 0.99] {
            filters.push(Bitmap::from_positions(count, (0..count as u32).filter(|_| random.uniform() >= excluded)));
        }
        println!(
            "\n{count} x {DIM}, median microseconds a query (one thread); -x% = share excluded at k=10; batch of 64 at k=10"
        );
        println!(
            "{:<24} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "engine", "k=10", "k=100", "-1%", "-50%", "-90%", "-97%", "-99%", "batch"
        );
        for kernel in Kernel::available() {
            let exact = Exact::build(DIM, &rows)?.with_kernel(kernel)?;
            report(&format!("exact {}", kernel.name()), &exact, &queries, &filters)?;
        }
        report_overlay(&rows, &queries)?;
        if !is_quick || count < 100_000 {
            report_hnsw(&rows, &queries, &filters)?;
        }
    }
    Ok(())
}
