// Draws a matrix of raw f32 values as coloured cells. One triangle covers the widget; each pixel finds the
// cells under it, takes their extreme value and looks its colour up.

struct Params {
    // The widget in framebuffer pixels: x, y, width, height.
    rect: vec4<f32>,
    // The visible part of the matrix in cells: column, row, columns, rows. Negative rows flip the picture.
    window: vec4<f32>,
    // The part of the matrix that this texture holds, in cells: column, row, columns, rows.
    tile: vec4<f32>,
    // Values of the first and last colour, 1 if signed else 0, row of the colour map.
    range: vec4<f32>,
    // Colour of NaN.
    nan_color: vec4<f32>,
    // Colour of the gaps between cells, and in alpha their width in pixels.
    gap: vec4<f32>,
    // Opacity of everything; number of reduced levels.
    look: vec4<f32>,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var values: texture_2d<f32>;
// Smallest and largest value of 2, 4, 8, ... cells squared: level 0 here is a reduction by two.
@group(0) @binding(2) var reduced: texture_2d<f32>;
@group(0) @binding(3) var colors: texture_2d<f32>;

// Marks a cell that is not there (drawn as nothing): whatever lies beyond this, as NOTHING in gpu/heatmap.rs does.
const NOTHING: f32 = 3.0e38;
// Most cells looked at per pixel and axis.
const MOST: i32 = 512;

@vertex
fn vs_main(@builtin(vertex_index) i: u32) -> @builtin(position) vec4<f32> {
    let q = vec2<f32>(f32((i << 1u) & 2u), f32(i & 2u));
    return vec4<f32>(q * 2.0 - 1.0, 0.0, 1.0);
}

fn is_nan(x: f32) -> bool {
    // Comparisons with NaN may be optimised away; its bits may not.
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

@fragment
fn fs_main(@builtin(position) position: vec4<f32>) -> @location(0) vec4<f32> {
    let uv = (position.xy - p.rect.xy) / p.rect.zw;
    let cell = p.window.xy + uv * p.window.zw - p.tile.xy;
    if (any(cell < vec2<f32>(0.0)) || any(cell >= p.tile.zw)) {
        discard;
    }
    // Cells per pixel.
    let foot = abs(p.window.zw) / p.rect.zw;
    let last = vec2<i32>(p.tile.zw) - 1;
    var low = NOTHING;
    var high = -NOTHING;
    var nan = false;
    var found = false;
    if (max(foot.x, foot.y) <= 1.0) {
        let v = textureLoad(values, clamp(vec2<i32>(cell), vec2<i32>(0), last), 0).r;
        nan = is_nan(v);
        if (!nan && abs(v) < NOTHING) {
            low = v;
            high = v;
            found = true;
        }
    } else {
        // Along an axis whose cells are larger than pixels only the cell under the pixel counts.
        let reach = select(vec2<f32>(0.0), foot * 0.5, foot > vec2<f32>(1.0));
        let level = clamp(i32(floor(log2(max(min(foot.x, foot.y), 1.0)))), 0, i32(p.look.y));
        let size = exp2(f32(level));
        let end = vec2<i32>(vec2<f32>(last) / size);
        let a = clamp(vec2<i32>(floor((cell - reach) / size)), vec2<i32>(0), end);
        let b = min(clamp(vec2<i32>(floor((cell + reach) / size)), vec2<i32>(0), end), a + MOST);
        for (var y = a.y; y <= b.y; y++) {
            for (var x = a.x; x <= b.x; x++) {
                var pair: vec2<f32>;
                if (level == 0) {
                    pair = textureLoad(values, vec2<i32>(x, y), 0).rr;
                } else {
                    pair = textureLoad(reduced, vec2<i32>(x, y), level - 1).rg;
                }
                if (is_nan(pair.x)) {
                    nan = true;
                } else if (abs(pair.x) < NOTHING) {
                    low = min(low, pair.x);
                    high = max(high, pair.y);
                    found = true;
                }
            }
        }
    }
    if (nan) {
        return vec4<f32>(p.nan_color.rgb, 1.0) * p.look.x;
    }
    if (!found) {
        discard;
    }
    var v = high;
    if (p.range.z > 0.5 && abs(low) > abs(high)) {
        v = low;
    }
    let t = clamp((v - p.range.x) / max(p.range.y - p.range.x, 1e-30), 0.0, 1.0);
    var color = textureLoad(colors, vec2<i32>(i32(t * 255.0 + 0.5), i32(p.range.w)), 0).rgb;
    let inside = fract(cell) / max(foot, vec2<f32>(1e-6));
    if (p.gap.a > 0.0 && max(foot.x, foot.y) < 0.2 && (inside.x < p.gap.a || inside.y < p.gap.a)) {
        color = p.gap.rgb;
    }
    return vec4<f32>(color, 1.0) * p.look.x;
}
