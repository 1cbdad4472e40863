// Shaded capsules: arrows and balls of a scene in three dimensions. The projection is done before; here are points on
// the screen, sorted from far to near.

struct Frame {
    // Size of the viewport in points.
    size: vec2<f32>,
    // Pixels per point, and room.
    scale: vec2<f32>,
}

@group(0) @binding(0) var<uniform> frame: Frame;

struct Capsule {
    // Both ends: x, y, radius, all in points.
    @location(0) a: vec4<f32>,
    @location(1) b: vec4<f32>,
    // Not premultiplied.
    @location(2) color: vec4<f32>,
}

struct Corner {
    @builtin(position) position: vec4<f32>,
    @location(0) at: vec2<f32>,
    @location(1) a: vec3<f32>,
    @location(2) b: vec3<f32>,
    @location(3) color: vec4<f32>,
}

@vertex
fn vs_main(@builtin(vertex_index) index: u32, capsule: Capsule) -> Corner {
    // Two triangles: 0 1 2, 2 1 3.
    let corner = array<u32, 6>(0u, 1u, 2u, 2u, 1u, 3u)[index];
    let end = f32(corner & 1u);
    let side = f32(corner >> 1u) * 2.0 - 1.0;
    let along = capsule.b.xy - capsule.a.xy;
    let length = length(along);
    var direction = vec2<f32>(1.0, 0.0);
    if length > 1e-4 {
        direction = along / length;
    }
    // One point more than the radius, for the soft edge.
    let reach = max(capsule.a.z, capsule.b.z) + 1.0;
    let normal = vec2<f32>(-direction.y, direction.x);
    let at = mix(capsule.a.xy - direction * reach, capsule.b.xy + direction * reach, end) + normal * side * reach;
    var out: Corner;
    out.position = vec4<f32>(at.x / frame.size.x * 2.0 - 1.0, 1.0 - at.y / frame.size.y * 2.0, 0.0, 1.0);
    out.at = at;
    out.a = capsule.a.xyz;
    out.b = capsule.b.xyz;
    out.color = capsule.color;
    return out;
}

@fragment
fn fs_main(in: Corner) -> @location(0) vec4<f32> {
    let along = in.b.xy - in.a.xy;
    let t = clamp(dot(in.at - in.a.xy, along) / max(dot(along, along), 1e-6), 0.0, 1.0);
    let radius = mix(in.a.z, in.b.z, t);
    let off = in.at - mix(in.a.xy, in.b.xy, t);
    let distance = length(off);
    let soft = 0.6 / frame.scale.x;
    let cover = 1.0 - smoothstep(radius - soft, radius + soft, distance);
    // The surface's normal, lit from the upper left.
    let across = off / max(radius, 1e-4);
    let up = sqrt(max(1.0 - dot(across, across), 0.0));
    let light = clamp(0.62 + 0.3 * up - 0.22 * (across.x + across.y) * 0.7, 0.35, 1.1);
    let alpha = in.color.a * cover;
    return vec4<f32>(min(in.color.rgb * light, vec3<f32>(1.0)) * alpha, alpha);
}
