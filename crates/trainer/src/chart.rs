//! Curves in a plane, as SVG.

/// What is drawn; axes begin at `from` and end at `to`.
pub struct Chart<'a> {
    pub title: &'a str,
    pub x: Axis<'a>,
    pub y: Axis<'a>,
    pub lines: Vec<Line>,
    /// Points with their names.
    pub dots: Vec<(String, (f64, f64))>,
}

/// One axis.
pub struct Axis<'a> {
    pub name: &'a str,
    pub from: f64,
    pub to: f64,
    pub marks: usize,
    pub show: fn(f64) -> String,
}

/// One curve.
pub struct Line {
    pub name: &'static str,
    pub colour: &'static str,
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 44.0;

impl Axis<'_> {
    fn along(&self, value: f64) -> f64 {
        (value - self.from) / (self.to - self.from)
    }

    fn marks(&self) -> impl Iterator<Item = f64> + '_ {
        (0..=self.marks).map(|mark| self.from + (self.to - self.from) * mark as f64 / self.marks as f64)
    }
}

impl Chart<'_> {
    pub fn svg(&self) -> String {
        let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * self.x.along(value);
        let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * self.y.along(value);
        let (right, base) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{}</text>\n",
            self.title
        );
        for mark in self.x.marks() {
            let (at, name) = (x(mark), (self.x.show)(mark));
            svg += &format!(
                "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{base}\" stroke=\"#ddd\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>\n",
                base + 16.0
            );
        }
        for mark in self.y.marks() {
            let (at, name) = (y(mark), (self.y.show)(mark));
            svg += &format!(
                "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{at:.1}\" text-anchor=\"end\">{name}</text>\n",
                LEFT - 6.0
            );
        }
        svg += &format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n<text x=\"{LEFT}\" y=\"34\">{}</text>\n",
            WIDTH / 2.0,
            HEIGHT - 8.0,
            self.x.name,
            self.y.name
        );
        for (at, (name, point)) in self.dots.iter().enumerate() {
            let (across, down) = (x(point.0), y(point.1));
            svg += &format!(
                "<circle cx=\"{across:.1}\" cy=\"{down:.1}\" r=\"3\" fill=\"#444\"><title>{name}</title></circle>\n"
            );
            if self.lines.is_empty() {
                // Without lines the dots are what is shown: numbered, above and below by turns, and named in the corner.
                let (number, beside) = (at + 1, if at % 2 == 0 { -8.0 } else { 16.0 });
                let line = base - 10.0 - 15.0 * (self.dots.len() - number) as f64;
                svg += &format!(
                    "<text x=\"{across:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#06c\">{number}</text>\
                     <text x=\"{:.1}\" y=\"{line:.1}\"><tspan fill=\"#06c\">{number}</tspan> {name}</text>\n",
                    down + beside,
                    LEFT + 0.52 * (WIDTH - LEFT - RIGHT)
                );
            }
        }
        for (at, line) in self.lines.iter().enumerate() {
            let points: Vec<String> = line.points.iter().map(|(a, b)| format!("{:.1},{:.1}", x(*a), y(*b))).collect();
            let (colour, name, left, top) = (line.colour, line.name, LEFT + 12.0, 56 + 16 * at);
            svg += &format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
                 <text x=\"{left}\" y=\"{top}\" fill=\"{colour}\">{name}</text>\n",
                points.join(" ")
            );
        }
        svg + "</svg>\n"
    }
}
