//! Words: titles of syllables, categories, demographics.

use crate::generate::draw::Draw;

/// Names of the latent clusters, repeated with a number when there are more.
const CATEGORIES: [&str; 24] = [
    "Adventure",
    "Animation",
    "Biography",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Family",
    "Fantasy",
    "History",
    "Horror",
    "Music",
    "Mystery",
    "Nature",
    "Philosophy",
    "Poetry",
    "Romance",
    "Satire",
    "Science",
    "Sport",
    "Thriller",
    "Travel",
    "War",
    "Western",
];

const ONSETS: [&str; 18] =
    ["b", "br", "c", "d", "f", "g", "gl", "k", "l", "m", "n", "p", "r", "s", "st", "t", "v", "z"];
const NUCLEI: [&str; 8] = ["a", "e", "i", "o", "u", "ai", "ea", "io"];
const CODAS: [&str; 8] = ["", "", "", "l", "n", "r", "s", "th"];
const SHAPES: [&str; 5] = ["The {}", "{} and {}", "{} of {}", "{} {}", "Return to {}"];

/// The user's country.
pub const COUNTRIES: [&str; 12] = ["br", "ca", "de", "es", "fr", "gb", "in", "it", "jp", "pl", "us", "za"];
/// The user's age band.
pub const AGES: [&str; 6] = ["13-17", "18-24", "25-34", "35-49", "50-64", "65+"];
/// Where a session happens.
pub const DEVICES: [&str; 4] = ["phone", "phone", "desktop", "tablet"];

/// The name of cluster `number`.
pub fn category(number: usize) -> String {
    let name = CATEGORIES[number % CATEGORIES.len()];
    match number / CATEGORIES.len() {
        0 => name.to_owned(),
        round => format!("{name} {}", round + 1),
    }
}

/// A capitalised word of two or three syllables.
pub fn word(draw: &mut Draw) -> String {
    let mut word = String::new();
    for _ in 0..2 + draw.below(2) {
        for part in [*draw.one_of(&ONSETS), *draw.one_of(&NUCLEI), *draw.one_of(&CODAS)] {
            word.push_str(part);
        }
    }
    // Syllables are ASCII.
    word[..1].make_ascii_uppercase();
    word
}

/// A title: `The Brelan`, `Stiova of Gleanath`.
pub fn title(draw: &mut Draw) -> String {
    let shape = *draw.one_of(&SHAPES);
    let mut title = String::new();
    for (i, part) in shape.split("{}").enumerate() {
        if i > 0 {
            title.push_str(&word(draw));
        }
        title.push_str(part);
    }
    title
}
