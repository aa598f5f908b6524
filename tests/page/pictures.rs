//! The pictures of the page: of a plant with healthy and with failing devices, then of the same plant in trouble.
//!
//! CI draws all of them into `target/pictures`. Those in `docs/` are drawn by a test that takes longer, so that their charts
//! are full; each has the layout of the page at that time in its file, which CI compares with the layout of today.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use data_encoding::BASE64;
use tokio::time::timeout;

use super::plant::Plant;
use crate::support::browser::OpenPage;
use crate::support::command::{has, run};
use crate::support::{Authority, Backend, Proxy, png};

/// A picture of the page.
struct Picture {
    file: &'static str,
    dark: bool,
    width: u32,
    /// The height; all of the page if there is none.
    height: Option<u32>,
    /// Expressions that are true in the page before it is drawn.
    shows: &'static [&'static str],
}

/// The plant as it is every day: one backend is down, and some devices cannot connect.
const EVERY_DAY: [Picture; 4] = [
    Picture {
        file: "page.png",
        dark: false,
        width: 1280,
        height: None,
        shows: &[
            "document.getElementById('claimed').innerText.includes('plc-12')",
            "document.getElementById('reasons').innerText.includes('client_cert_expired')",
            "document.querySelectorAll('#sessions tr').length > 10",
        ],
    },
    Picture {
        file: "page-dark.png",
        dark: true,
        width: 1280,
        height: None,
        shows: &["matchMedia('(prefers-color-scheme: dark)').matches"],
    },
    // The README shows the upper part, at a width at which it can be read.
    Picture {
        file: "page-top.png",
        dark: false,
        width: 1000,
        height: Some(760),
        shows: &["document.querySelector('.tiles').getBoundingClientRect().bottom < innerHeight"],
    },
    Picture {
        file: "page-phone.png",
        dark: false,
        width: 390,
        height: Some(1500),
        shows: &["document.documentElement.scrollWidth === 390"],
    },
];

/// The plant after [`Plant::fail`].
const IN_TROUBLE: Picture = Picture {
    file: "page-trouble.png",
    dark: false,
    width: 1280,
    height: Some(1500),
    shows: &[
        "document.getElementById('problems').innerText.includes('Critical: Backend of mqtt is down')",
        "document.getElementById('problems').innerText.includes('Warning: The last reload failed')",
        "document.getElementById('problems').innerText.includes('Warning: Many handshakes of modbus fail')",
        "document.getElementById('reasons').innerText.includes('backend_refused')",
        "document.getElementById('claimed').innerText.includes('plc-12')",
    ],
};

/// Expressions that are true in each picture. Throughput is the difference of two answers.
const EACH_SHOWS: [&str; 4] = [
    "document.body.dataset.state === 'critical'",
    "document.getElementById('problems').innerText.includes('Critical: Backend of historian is down')",
    "document.getElementById('tiles').innerText.includes('B/s')",
    "!document.getElementById('tiles').innerText.includes('\\n0 B/s')",
];

/// The layout that readers see: headings, tiles, columns, labels and colours.
const LAYOUT: &str = "[
    ...[...document.querySelectorAll('h1, h2, dt, thead th, label, summary, figcaption > :first-child')]
        .filter(part => !part.closest('tbody') && part.checkVisibility())
        .map(part => `${part.tagName.toLowerCase()} ${part.firstChild.textContent.trim()}`),
    ...[...document.styleSheets].flatMap(sheet => [...sheet.cssRules]).map(rule => rule.cssText)
        .filter(rule => rule.includes(':root')).map(rule => rule.replace(/\\s+/g, ' ')),
].join('\\n')";

/// The keyword of the layout in a picture.
const KEYWORD: &str = "Layout of the page";

/// The mean brightness of a picture, from 0 to 255, and the most rows of pixels that follow each other without a difference.
const PIXELS: &str = "(async base64 => {
    const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0)), image = await createImageBitmap(new Blob([bytes]));
    const { width, height } = image, context = new OffscreenCanvas(width, height).getContext('2d');
    context.drawImage(image, 0, 0);
    const pixels = new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
    let sum = 0, same = 0, most = 0;
    for (let y = 0; y < height; y += 1) {
        const row = pixels.subarray(y * width, (y + 1) * width), above = pixels.subarray((y - 1) * width, y * width);
        for (const pixel of row) sum += (pixel & 255) + (pixel >> 8 & 255) + (pixel >> 16 & 255);
        same = y > 0 && row.every((pixel, x) => pixel === above[x]) ? same + 1 : 0;
        most = Math.max(most, same);
    }
    return [sum / (3 * width * height), most];
})";

/// Draws the picture, once the page shows what belongs into it, and checks that the page is in it.
async fn draw(page: &mut OpenPage, picture: &Picture, dir: &Path) {
    let Picture { file, dark, width, height, shows } = picture;
    page.arrange(*dark, *width, *height).await;
    for shown in shows.iter().chain(&EACH_SHOWS) {
        page.until(shown).await;
    }
    // The page may have grown since.
    page.arrange(*dark, *width, *height).await;
    let drawn = page.picture().await;
    fs::write(dir.join(file), &drawn).unwrap();
    let size = png::size(&drawn);
    assert_eq!(size.0, *width, "{file}");
    assert!(height.map_or(size.1 > 2000, |height| size.1 == height), "{file}: {size:?}");
    let pixels = page.evaluate(&format!("{PIXELS}('{}')", BASE64.encode(&drawn))).await;
    let [brightness, same] = [0, 1].map(|at: usize| pixels[at].as_f64().unwrap());
    let wanted = if *dark { 15.0..80.0 } else { 200.0..253.0 };
    assert!(wanted.contains(&brightness), "{file}: its brightness is {brightness}");
    assert!(same < 250.0, "{file}: {same} rows are blank");
}

/// Draws all pictures of a plant with one step in `pace`, which runs for `time` before.
async fn draw_all(plant_dir: &Path, pace: Duration, time: Duration, into: &Path) -> String {
    let mut plant = Plant::new(plant_dir).await;
    let _over = timeout(time, plant.during(pace, std::future::pending::<()>())).await;
    let mut page = OpenPage::open(&plant.url()).await;
    let every_day = async {
        for picture in &EVERY_DAY {
            draw(&mut page, picture, into).await;
        }
        page.arrange(false, 1280, None).await;
        layout(&mut page).await
    };
    let layout = plant.during(pace, every_day).await;
    plant.fail().await;
    let _over = timeout(time / 10, plant.during(pace, std::future::pending::<()>())).await;
    plant.during(pace, draw(&mut page, &IN_TROUBLE, into)).await;
    drop(page);
    plant.end().await;
    layout
}

async fn layout(page: &mut OpenPage) -> String {
    let layout = page.evaluate(LAYOUT).await;
    layout.as_str().unwrap().to_owned()
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pictures_show_a_plant_every_day_and_in_trouble() {
    if !has("chromium") {
        return;
    }
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pictures");
    fs::create_dir_all(&pictures).unwrap();
    let dir = tempfile::tempdir().unwrap();
    draw_all(dir.path(), Duration::from_millis(20), Duration::ZERO, &pictures).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pictures_in_the_documents_have_the_layout_of_the_page() {
    if !has("chromium") {
        return;
    }
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let proxy = Proxy::start(backend.config(), &authority.server());
    let mut page = OpenPage::open(&format!("http://{}/", proxy.app.admin.unwrap())).await;
    page.arrange(false, 1280, None).await;
    page.until("document.querySelectorAll('dt').length > 0").await;
    let layout = layout(&mut page).await;
    assert!(layout.contains("h2 Listeners\n") && layout.contains("th Reason"), "{layout}");
    for Picture { file, .. } in EVERY_DAY.iter().chain([&IN_TROUBLE]) {
        let drawn = png::text(&fs::read(docs().join(file)).unwrap(), KEYWORD).unwrap_or_default();
        assert_eq!(
            drawn, layout,
            "docs/{file} was drawn before the page has changed. Draw all of them again: \
             cargo test --test it -- --ignored the_pictures_in_the_documents_are_drawn"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "draws docs/page*.png, in a quarter of an hour or TLSIDECAR_PICTURE_SECONDS"]
async fn the_pictures_in_the_documents_are_drawn() {
    let dir = std::env::temp_dir().join("plant-7");
    fs::create_dir_all(&dir).unwrap();
    let seconds = std::env::var("TLSIDECAR_PICTURE_SECONDS");
    let seconds = seconds.map_or(900, |seconds| seconds.parse().unwrap());
    let (pace, time) = (Duration::from_millis(300), Duration::from_secs(seconds));
    let layout = draw_all(&dir, pace, time, &docs()).await;
    for Picture { file, .. } in EVERY_DAY.iter().chain([&IN_TROUBLE]) {
        let file = docs().join(file);
        // A page has few colours.
        let mut fewer = Command::new("pngquant");
        fewer.args(["--force", "--strip", "--output"]).arg(&file).arg("64").arg(&file);
        let (good, text) = run(fewer).await;
        assert!(good, "{text}");
        let drawn = fs::read(&file).unwrap();
        fs::write(&file, png::with_text(&drawn, KEYWORD, &layout)).unwrap();
    }
    fs::remove_dir_all(dir).unwrap();
}
