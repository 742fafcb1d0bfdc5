//! QR codes for terminals.

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use zeroize::Zeroizing;

use crate::exit::{self, Failure};

/// The code of a text in half blocks, two rows a line, with the quiet zone around it. Light modules are drawn, so it reads
/// on a dark terminal as it is, and on a light one by apps that take inverted codes, as authenticators do.
pub(crate) fn code(text: &str) -> Result<Zeroizing<String>, Failure> {
    let code = QrCode::new(text)
        .map_err(|error| Failure::new(exit::FAILED, format!("no QR code of the URI: {error}")))?;
    let drawn = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    Ok(Zeroizing::new(drawn))
}

#[cfg(test)]
mod tests {
    use qrcode::Color;

    use super::*;

    #[test]
    fn half_blocks_hold_every_module() {
        let text = "otpauth://totp/Tessera:alice?secret=JBSWY3DPEHPK3PXP&issuer=Tessera";
        let drawn = code(text).unwrap();
        let rows: Vec<Vec<bool>> = drawn
            .lines()
            .flat_map(|line| {
                let half = |upper: bool| {
                    line.chars()
                        .map(|c| match c {
                            '█' => true,
                            '▀' => upper,
                            '▄' => !upper,
                            ' ' => false,
                            other => panic!("{other}"),
                        })
                        .collect()
                };
                [half(true), half(false)]
            })
            .collect();
        let code = QrCode::new(text).unwrap();
        let (width, quiet) = (code.width(), 4);
        assert!(rows.len() >= width + 2 * quiet && rows.iter().all(|row| row.len() == width + 2 * quiet));
        for (y, row) in rows.iter().take(width + 2 * quiet).enumerate() {
            for (x, light) in row.iter().enumerate() {
                let inside = (quiet..width + quiet).contains(&x) && (quiet..width + quiet).contains(&y);
                let dark = inside && code[(x - quiet, y - quiet)] == Color::Dark;
                assert_eq!(*light, !dark, "{x},{y}");
            }
        }
        assert!(super::code(&"x".repeat(10_000)).is_err());
    }
}
