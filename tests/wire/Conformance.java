/* tests/wire/Conformance.java -- the official client's message classes as the judge of our codec.
 *
 *     java Conformance write SEED ROUNDS    random messages of every schema and version, as text
 *     java Conformance check < TEXT         the same text from our side: do the classes agree?
 *
 * It finds every message class of the jar by its schema, fills objects by reflection along the
 * SCHEMA_n constants (which say what a version carries and what may be null there), and lets the
 * classes themselves read and write. tests/wire/README.md describes the text.
 */

import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.io.PrintWriter;
import java.io.File;
import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import java.lang.reflect.ParameterizedType;
import java.math.BigDecimal;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collection;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.jar.JarFile;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.MessageUtil;
import org.apache.kafka.common.protocol.types.BoundField;
import org.apache.kafka.common.protocol.types.RawTaggedField;
import org.apache.kafka.common.protocol.types.Schema;
import org.apache.kafka.common.protocol.types.TaggedFields;
import org.apache.kafka.common.protocol.types.Type;
import org.apache.kafka.common.record.internal.BaseRecords;
import org.apache.kafka.common.record.internal.MemoryRecords;

public class Conformance {
    static final HexFormat HEX = HexFormat.of();
    static final String REFUSED = "-";

    // ---- the classes ----

    /** One struct: its Java fields by the name that its Schema uses, in order of declaration. */
    static class Shape {
        final Map<String, Field> fields = new LinkedHashMap<>();

        Shape(Class<?> type) {
            for (Field f : type.getDeclaredFields()) {
                if (Modifier.isStatic(f.getModifiers()) || f.getName().equals("_unknownTaggedFields")
                    || f.getName().equals("next") && f.getType() == int.class
                    || f.getName().equals("prev") && f.getType() == int.class)
                    continue;
                f.setAccessible(true);
                fields.put(plain(f.getName()), f);
            }
        }
    }

    static final Map<Class<?>, Shape> SHAPES = new HashMap<>();

    static Shape shape(Object of) {
        return SHAPES.computeIfAbsent(of.getClass(), Shape::new);
    }

    /** A Schema says throttle_time_ms where the class says throttleTimeMs. */
    static String plain(String name) {
        return name.replace("_", "").toLowerCase(Locale.ROOT);
    }

    /** What a version of a struct carries: tagged fields (true) and others (false), by name. */
    static Map<String, Boolean> carried(Schema schema, Map<String, Type> types) {
        Map<String, Boolean> names = new HashMap<>();
        for (BoundField f : schema.fields()) {
            if (f.def.type instanceof TaggedFields) {
                names.put("", true); // flexible
                for (var tagged : ((TaggedFields) f.def.type).fields().entrySet()) {
                    names.put(plain(tagged.getValue().name), true);
                    types.put(plain(tagged.getValue().name), tagged.getValue().type);
                }
            } else {
                names.put(plain(f.def.name), false);
                types.put(plain(f.def.name), f.def.type);
            }
        }
        return names;
    }

    static int knownTags(Schema schema) {
        for (BoundField f : schema.fields())
            if (f.def.type instanceof TaggedFields) {
                int next = 0;
                for (int tag : ((TaggedFields) f.def.type).fields().keySet())
                    next = Math.max(next, tag + 1);
                return next;
            }
        return 0;
    }

    record Kind(String name, Class<?> type, Schema[] schemas, int lowest, int highest) {
        Message create() throws Exception {
            return (Message) type.getConstructor().newInstance();
        }
    }

    /** Every schema in the jar that still has a class (removed APIs have none). */
    static Map<String, Kind> kinds() throws Exception {
        Map<String, Kind> kinds = new TreeMap<>();
        File jar = new File(Message.class.getProtectionDomain().getCodeSource().getLocation().toURI());
        try (JarFile file = new JarFile(jar)) {
            for (var e : (Iterable<java.util.jar.JarEntry>) file.stream()::iterator) {
                if (!e.getName().matches("common/message/\\w+\\.json"))
                    continue;
                String name = e.getName().replaceAll(".*/|\\.json", "");
                Class<?> type = null;
                for (String suffix : new String[] {"Data", ""}) {
                    try {
                        type = Class.forName("org.apache.kafka.common.message." + name + suffix);
                        break;
                    } catch (ClassNotFoundException next) {
                        continue;
                    }
                }
                if (type == null)
                    continue;
                int lowest = ((Number) type.getField("LOWEST_SUPPORTED_VERSION").get(null)).intValue();
                int highest = ((Number) type.getField("HIGHEST_SUPPORTED_VERSION").get(null)).intValue();
                if (highest < lowest)
                    continue;
                kinds.put(name, new Kind(name, type, (Schema[]) type.getField("SCHEMAS").get(null), lowest, highest));
            }
        }
        return kinds;
    }

    // ---- random messages ----

    static class Maker {
        final Random random;
        double density;   // how often a field gets a value at all
        double tagDensity; // how often a struct gets unknown tags
        int budget;       // elements left for this message
        boolean newest;   // no version knows more fields than this one

        Maker(long seed) {
            random = new Random(seed);
        }

        boolean chance(double p) {
            return random.nextDouble() < p;
        }

        Message message(Kind kind, int version) throws Exception {
            density = new double[] {0, 0.1, 0.3, 0.6, 0.9, 1}[random.nextInt(6)];
            tagDensity = new double[] {0, 0, 0.1, 0.5}[random.nextInt(4)];
            budget = chance(0.05) ? 600 : 60;
            newest = version == kind.highest;
            Message m = kind.create();
            fill(m, kind.schemas[version]);
            return m;
        }

        @SuppressWarnings("unchecked")
        void fill(Object object, Schema schema) throws Exception {
            Map<String, Type> types = new HashMap<>();
            Map<String, Boolean> carried = carried(schema, types);
            for (var e : shape(object).fields.entrySet()) {
                Type type = types.get(e.getKey());
                if (type == null)
                    continue;
                Field f = e.getValue();
                // Records have no default that may always be sent.
                boolean must = BaseRecords.class.isAssignableFrom(f.getType())
                    || f.getType() == ByteBuffer.class;
                if (!must && !chance(density))
                    continue;
                f.set(object, value(f, type));
            }
            if (carried.containsKey("") && chance(tagDensity)) {
                var tags = (List<RawTaggedField>) object.getClass().getMethod("unknownTaggedFields").invoke(object);
                // The classes refuse a tag that another version knows. None knows more than these.
                int tag = newest ? knownTags(schema) : 10;
                for (int i = 1 + random.nextInt(3); i > 0; i--) {
                    tag += random.nextInt(chance(0.1) ? 100000 : 3);
                    tags.add(new RawTaggedField(tag++, bytes()));
                }
            }
        }

        Object value(Field f, Type type) throws Exception {
            Class<?> c = f.getType();
            if (type.isNullable() && chance(0.3))
                return null;
            if (type.isArray())
                return array(f, type.arrayElementType().get());
            if (type instanceof Schema) {
                Object o = c.getConstructor().newInstance();
                fill(o, (Schema) type);
                return o;
            }
            if (c == byte[].class)
                return bytes();
            if (c == ByteBuffer.class)
                return ByteBuffer.wrap(bytes());
            if (BaseRecords.class.isAssignableFrom(c))
                return MemoryRecords.readableRecords(ByteBuffer.wrap(bytes()));
            return scalar(c, type);
        }

        Object scalar(Class<?> c, Type type) {
            if (c == boolean.class)
                return random.nextBoolean();
            if (c == byte.class || c == Byte.class)
                return (byte) number(8);
            if (c == short.class || c == Short.class)
                return (short) number(16);
            if (c == int.class || c == Integer.class)
                return type == Type.UINT16 ? (int) number(16) & 0xffff : (int) number(32);
            if (c == long.class || c == Long.class)
                return type == Type.UNSIGNED_INT32 ? number(32) & 0xffffffffL : number(64);
            if (c == double.class)
                return (double) (short) number(16) / 4;
            if (c == Uuid.class)
                return chance(0.2) ? Uuid.ZERO_UUID : new Uuid(random.nextLong(), random.nextLong());
            if (c == String.class)
                return string();
            throw new IllegalStateException("no value for " + c);
        }

        /** Often near the edges; the caller narrows it. */
        long number(int bits) {
            long max = bits == 64 ? Long.MAX_VALUE : (1L << (bits - 1)) - 1;
            switch (random.nextInt(8)) {
                case 0: return 0;
                case 1: return -1;
                case 2: return max;
                case 3: return -max - 1;
                case 4: return random.nextInt(200);
                default: return random.nextLong();
            }
        }

        int length() {
            return chance(0.02) ? 100 + random.nextInt(300) : random.nextInt(9);
        }

        byte[] bytes() {
            byte[] b = new byte[length()];
            random.nextBytes(b);
            return b;
        }

        String string() {
            String from = "abcdefghijklmnopqrstuvwxyz-_.0123456789\"\\\n\t\u00e4\u20ac\ud83d\ude80";
            int[] points = from.codePoints().toArray();
            StringBuilder s = new StringBuilder();
            for (int i = length(); i > 0; i--)
                s.appendCodePoint(points[random.nextInt(points.length)]);
            return s.toString();
        }

        @SuppressWarnings("unchecked")
        Object array(Field f, Type element) throws Exception {
            int n = chance(0.2) ? 0 : chance(0.03) ? 130 : 1 + random.nextInt(3);
            n = Math.min(n, budget);
            budget -= n;
            boolean isList = f.getType() == List.class;
            Collection<Object> out = isList ? new ArrayList<>()
                : (Collection<Object>) f.getType().getConstructor().newInstance();
            Class<?> of;
            if (isList)
                of = (Class<?>) ((ParameterizedType) f.getGenericType()).getActualTypeArguments()[0];
            else
                of = (Class<?>) ((ParameterizedType) f.getType().getGenericSuperclass()).getActualTypeArguments()[0];
            for (int i = 0; i < n; i++) {
                if (element instanceof Schema) {
                    Object o = of.getConstructor().newInstance();
                    fill(o, (Schema) element);
                    out.add(o);
                } else {
                    out.add(scalar(of, element));
                }
            }
            return out;
        }
    }

    // ---- the text form, as codec_print() writes it ----

    static String json(Object object, Schema schema) throws Exception {
        StringBuilder s = new StringBuilder();
        struct(s, object, schema);
        return s.toString();
    }

    static void struct(StringBuilder s, Object object, Schema schema) throws Exception {
        Map<String, Type> types = new HashMap<>();
        Map<String, Boolean> carried = carried(schema, types);
        Object fresh = object.getClass().getConstructor().newInstance();
        String comma = "";
        s.append('{');
        for (var e : shape(object).fields.entrySet()) {
            Field f = e.getValue();
            if (!carried.containsKey(e.getKey()))
                continue;
            Object v = f.get(object);
            if (carried.get(e.getKey()) && same(v, f.get(fresh)))
                continue;
            s.append(comma).append('"').append(f.getName());
            comma = ",";
            if (v instanceof BaseRecords) {
                s.append("SizeInBytes\":").append(((BaseRecords) v).sizeInBytes());
            } else {
                s.append("\":");
                value(s, v, types.get(e.getKey()));
            }
        }
        s.append('}');
    }

    static boolean same(Object a, Object b) {
        return a == null ? b == null : a.equals(b);
    }

    static void value(StringBuilder s, Object v, Type type) throws Exception {
        if (v == null) {
            s.append("null");
        } else if (v instanceof Collection) {
            String comma = "";
            s.append('[');
            for (Object element : (Collection<?>) v) {
                s.append(comma);
                comma = ",";
                value(s, element, type.arrayElementType().get());
            }
            s.append(']');
        } else if (v instanceof byte[]) {
            s.append('"').append(Base64.getEncoder().encodeToString((byte[]) v)).append('"');
        } else if (v instanceof ByteBuffer) {
            ByteBuffer b = ((ByteBuffer) v).duplicate();
            byte[] bytes = new byte[b.remaining()];
            b.get(bytes);
            value(s, bytes, type);
        } else if (v instanceof String) {
            string(s, (String) v);
        } else if (v instanceof Uuid) {
            s.append('"').append(v).append('"');
        } else if (v instanceof Double) {
            BigDecimal d = new BigDecimal((Double) v);
            s.append(d.signum() == 0 ? "0" : d.stripTrailingZeros().toPlainString());
        } else if (type instanceof Schema) {
            struct(s, v, (Schema) type);
        } else {
            s.append(v); // numbers and booleans
        }
    }

    static void string(StringBuilder s, String v) {
        s.append('"');
        for (char c : v.toCharArray()) {
            if (c == '"' || c == '\\')
                s.append('\\').append(c);
            else if (c < 0x20 || c == 0x7f)
                s.append(String.format("\\u%04x", (int) c));
            else
                s.append(c);
        }
        s.append('"');
    }

    // ---- both ways ----

    static String encode(Message m, int version) {
        ByteBuffer b = MessageUtil.toByteBufferAccessor(m, (short) version).buffer();
        return "=" + HEX.formatHex(b.array(), b.arrayOffset() + b.position(), b.arrayOffset() + b.limit());
    }

    /** What a version cannot carry is refused: by exception here, by error code there. */
    static String encodeOrRefuse(Message m, int version) {
        try {
            return encode(m, version);
        } catch (RuntimeException refused) {
            return REFUSED;
        }
    }

    static Message decode(Kind kind, int version, String hex) throws Exception {
        ByteBufferAccessor in = new ByteBufferAccessor(ByteBuffer.wrap(HEX.parseHex(hex.substring(1))));
        Message m = kind.create();
        m.read(in, (short) version);
        if (in.remaining() != 0)
            throw new IllegalStateException(in.remaining() + " bytes left over");
        return m;
    }

    static void write(long seed, int rounds) throws Exception {
        Maker maker = new Maker(seed);
        try (PrintWriter out = new PrintWriter(new BufferedWriter(
                 new OutputStreamWriter(System.out, StandardCharsets.UTF_8), 1 << 16))) {
            for (Kind kind : kinds().values())
                for (int version = kind.lowest; version <= kind.highest; version++)
                    for (int round = 0; round < rounds; round++)
                        writeOne(out, kind, version, maker.message(kind, version));
        }
    }

    static void writeOne(PrintWriter out, Kind kind, int version, Message m) throws Exception {
        String hex = encode(m, version);
        out.print("M " + kind.name + " " + version + " " + hex + " ");
        out.print(json(m, kind.schemas[version]) + "\n");
        if (version != kind.lowest && version != kind.highest)
            return;
        // As whoever has only the bytes sees it.
        Message seen = decode(kind, version, hex);
        for (int other = kind.lowest; other <= kind.highest; other++)
            if (other != version)
                out.print("D " + other + " " + encodeOrRefuse(seen, other) + "\n");
    }

    static int passed = 0, failed = 0;

    static void expect(String what, String line, String expected, String found) {
        if (expected.equals(found)) {
            passed++;
            return;
        }
        failed++;
        if (failed <= 10)
            System.out.println("FAILED " + what + ": " + line + "\n  ours  " + expected + "\n  java  " + found);
    }

    static void check() throws Exception {
        Map<String, Kind> kinds = kinds();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8), 1 << 16);
        Kind kind = null;
        Message m = null;
        for (String line; (line = in.readLine()) != null;) {
            String head = line.length() > 60 ? line.substring(0, 60) + "..." : line;
            if (line.startsWith("M ")) {
                String[] words = line.split(" ", 5);
                kind = kinds.get(words[1]);
                int version = Integer.parseInt(words[2]);
                m = null;
                try {
                    m = decode(kind, version, words[3]);
                    expect("bytes", head, words[3], encode(m, version));
                    expect("fields", head, words[4], json(m, kind.schemas[version]));
                } catch (Exception why) {
                    expect("decode", head, "a message", why.toString());
                }
            } else if (m != null) {
                String[] words = line.split(" ", 3);
                int version = Integer.parseInt(words[1]);
                expect("at version " + version, kind.name, words[2], encodeOrRefuse(m, version));
            }
        }
        System.out.println("java reads ours: " + passed + " passed, " + failed + " failed");
        System.exit(failed > 0 || passed == 0 ? 1 : 0);
    }

    public static void main(String[] args) throws Exception {
        if (args.length == 3 && args[0].equals("write"))
            write(Long.parseLong(args[1]), Integer.parseInt(args[2]));
        else if (args.length == 1 && args[0].equals("check"))
            check();
        else
            throw new IllegalArgumentException("write SEED ROUNDS | check");
    }
}
