-- Wireshark dissector for QEMU live migration: today's stream ("v1") with its return path and multifd channels, and
-- the bidirectional v2 handshake. `tshark -X lua_script:qemu_migration.lua`; written for Wireshark 4.0 and Lua 5.2.
--
-- v1 device data has no length (QEMU migration/savevm.c), so it is opaque up to the next section footer; RAM is opaque.
-- Bodies of multifd packets and of v2 DATA frames are passed over by their length and never reassembled: in a
-- simulated run most of them were never captured.
-- Not done: joining v2 bodies that the MORE flag splits, and the v1 stream inside v2 DATA frames.
-- Sources: QEMU migration/savevm.c, savevm.h, migration.c and multifd.h; docs/devel/migration/main.rst.

local PORT = 4444
local MAX_FRAME = 1024 * 1024 -- the cap of a v2 control frame
local MORE = DESEGMENT_ONE_MORE_SEGMENT
local proto = Proto("qemu-migration", "QEMU live migration")

local V2_TYPES = {
    [0x01] = "HELLO", [0x02] = "OFFER", [0x04] = "ACCEPT", [0x05] = "REJECT", [0x06] = "START", [0x07] = "READY",
    [0x08] = "CHANNEL_OPEN", [0x09] = "CHANNEL_OK", [0x0A] = "ABORT", [0x0B] = "PING", [0x0C] = "PONG",
    [0x20] = "LOADED", [0x21] = "GO", [0x22] = "RUNNING", [0x23] = "ERROR", [0x40] = "DATA",
}
local ROLES = { [0x53] = "source", [0x44] = "destination", [0x46] = "manifest" } -- S, D, F
local SECTIONS = {
    [0] = "EOF", "SECTION_START", "SECTION_PART", "SECTION_END", "SECTION_FULL", "SUBSECTION", "VMDESCRIPTION",
    "CONFIGURATION", "COMMAND", [0x7E] = "FOOTER",
}
local COMMANDS = {
    "OPEN_RETURN_PATH", "PING", "POSTCOPY_ADVISE", "POSTCOPY_LISTEN", "POSTCOPY_RUN", "POSTCOPY_RAM_DISCARD",
    "PACKAGED", "ENABLE_COLO", "POSTCOPY_RESUME", "RECV_BITMAP", "SWITCHOVER_START",
}
local COMMAND_LENGTHS = { [1] = 0, [2] = 4, [4] = 0, [5] = 0, [7] = 4, [8] = 0, [9] = 0, [11] = 0 } -- others vary
local REPLIES = { "SHUT", "PONG", "REQ_PAGES_ID", "REQ_PAGES", "RECV_BITMAP", "RESUME_ACK", "SWITCHOVER_ACK" }

local all_fields = {}
local function field(kind, name, label, ...)
    all_fields[#all_fields + 1] = ProtoField[kind]("qemu-migration." .. name, label, ...)
    return all_fields[#all_fields]
end
local MAGIC, OPAQUE = field("bytes", "magic", "Magic"), field("bytes", "opaque", "Opaque")
local JSON_LIKE = field("string", "v2.body", "Body")
local ROLE = field("uint8", "v2.role", "Role", base.HEX, ROLES)
local PREFACE_LENGTH = field("uint16", "v2.preface_length", "Preface length")
local LOWEST = field("uint16", "v2.lowest_version", "Lowest version", base.HEX)
local HIGHEST = field("uint16", "v2.highest_version", "Highest version", base.HEX)
local PREFACE_FLAGS = field("uint16", "v2.preface_flags", "Flags", base.HEX)
local NONCE = field("bytes", "v2.nonce", "Nonce")
local LENGTH = field("uint32", "v2.length", "Payload length")
local TYPE = field("uint8", "v2.type", "Type", base.HEX, V2_TYPES)
local CRITICAL = field("bool", "v2.critical", "CRITICAL", 8, nil, 0x01)
local CONTINUED = field("bool", "v2.more", "MORE", 8, nil, 0x02)
local FLAGS = field("uint8", "v2.flags", "Flags", base.HEX)
local CHANNEL, REQUEST = field("uint16", "v2.channel", "Channel"), field("uint32", "v2.request", "Request")
local VERSION = field("uint32", "v1.version", "Version")
local MACHINE = field("string", "v1.machine", "Machine type")
local SECTION = field("uint8", "v1.section", "Section type", base.HEX, SECTIONS)
local SECTION_ID = field("uint32", "v1.section_id", "Section id")
local ID_STRING = field("string", "v1.id_string", "Id string")
local INSTANCE = field("uint32", "v1.instance", "Instance id")
local SECTION_VERSION = field("uint32", "v1.section_version", "Version id")
local COMMAND = field("uint16", "v1.command", "Command", base.DEC, COMMANDS)
local COMMAND_LENGTH = field("uint16", "v1.length", "Length")
local REPLY = field("uint16", "v1.reply", "Return path message", base.DEC, REPLIES)
local VALUE = field("uint32", "v1.value", "Value", base.HEX)
local UUID, MULTIFD_ID = field("bytes", "multifd.uuid", "VM UUID"), field("uint8", "multifd.id", "Channel id")
local MULTIFD_FLAGS = field("uint32", "multifd.flags", "Flags", base.HEX)
local PAGES_ALLOC = field("uint32", "multifd.pages_alloc", "Pages allocated")
local PAGES, ZEROS = field("uint32", "multifd.normal_pages", "Normal"), field("uint32", "multifd.zero_pages", "Zero")
local NEXT_SIZE = field("uint32", "multifd.next_packet_size", "Payload that follows")
local PACKET = field("uint64", "multifd.packet", "Packet number")
proto.fields = all_fields

local json, tls = Dissector.get("json"), Dissector.get("tls")

-- A parser gets the cursor `c` (tvb, at, left, state, stream, tree, pinfo) and returns either the number of bytes that
-- it took, or nil and how many bytes from c.at on would do: a total, MORE for "not known yet", 0 for "try again".

local function number(c, offset, length) return c.tvb(c.at + offset, length):uint() end

-- Add an item for `length` bytes and below it one field after the other, given as field, size, field, size ...
local function add(c, label, length, ...)
    c.labels[#c.labels + 1] = label
    local tree = c.tree:add(proto, c.tvb(c.at, math.min(length, c.left)), label)
    local at, layout = c.at, { ... }
    for i = 1, #layout, 2 do
        if layout[i] and layout[i + 1] > 0 then tree:add(layout[i], c.tvb(at, layout[i + 1])) end
        at = at + layout[i + 1]
    end
    return tree
end

local function opaque(c, length, label)
    length = math.min(length, c.left)
    add(c, label or string.format("%d bytes opaque", length), length, OPAQUE, length)
    return length
end

-- Take the bytes of this call that belong to a body of `length` bytes and leave the rest to the calls that follow.
local function pass_over(c, header, length)
    local here = math.min(length, c.reported - c.at - header)
    c.state.skip = length - here
    return header + here
end

local function add_json(c, tree, offset, length)
    if length > 0 and number(c, offset, 1) == 0x7B then
        json:call(c.tvb(c.at + offset, length):tvb(), c.pinfo, tree)
    elseif length > 0 then
        tree:add(OPAQUE, c.tvb(c.at + offset, length))
    end
end

-- v2 ------------------------------------------------------------------------------------------------------------------

local function preface(c)
    c.family = "v2"
    if c.left < 12 then return nil, MORE end
    local role = number(c, 3, 1)
    if role == 0x46 then
        local length = number(c, 8, 4)
        if c.left < 44 + length then return nil, 44 + length end
        c.state.mode = "raw"
        add_json(c, add(c, "MANIFEST", 44 + length, MAGIC, 8, LENGTH, 4, false, length, OPAQUE, 32), 12, length)
        return 44 + length
    end
    local length = math.max(32, number(c, 8, 2))
    if c.left < length then return nil, length end
    local tree = add(c, "PREFACE(" .. string.char(role) .. ")", length, MAGIC, 8, PREFACE_LENGTH, 2, LOWEST, 2,
        HIGHEST, 2, PREFACE_FLAGS, 2, NONCE, 16)
    tree:add(ROLE, c.tvb(c.at + 3, 1))
    c.stream.v2, c.state.mode = true, "v2"
    return length
end

local function frame(c)
    c.family = "v2"
    if c.left < 12 then return nil, MORE end
    local length, kind, flags = number(c, 0, 4), number(c, 4, 1), number(c, 5, 1)
    if length > MAX_FRAME then return opaque(c, c.left, "not a frame") end
    local name = V2_TYPES[kind] or string.format("type 0x%02X", kind)
    local is_data = kind == 0x40
    if is_data then
        name = string.format("DATA (%d bytes)", length)
    elseif c.left < 12 + length then
        return nil, 12 + length
    elseif (kind == 0x05 or kind == 0x0A or kind == 0x23) and length > 0 then
        for code in c.tvb:raw(c.at + 12, length):gmatch('"code"%s*:%s*"([%w%-]+)"') do name = name .. " " .. code end
    end
    local tree = add(c, name, 12 + length, LENGTH, 4, TYPE, 1, FLAGS, 1, CHANNEL, 2, REQUEST, 4)
    tree:add(CRITICAL, c.tvb(c.at + 5, 1))
    tree:add(CONTINUED, c.tvb(c.at + 5, 1))
    if is_data then return pass_over(c, 12, length) end
    if flags % 4 >= 2 then -- MORE: half a text is not JSON
        tree:add(JSON_LIKE, c.tvb(c.at + 12, length))
    else
        add_json(c, tree, 12, length)
    end
    if kind == 0x08 then c.state.mode = "raw" end -- what follows on this connection is the channel's own
    if kind == 0x09 then c.state.mode = "return" end
    return 12 + length
end

-- v1 ------------------------------------------------------------------------------------------------------------------

-- A byte of length and a name: the name, and the bytes of both; nil if it is not all there.
local function counted_string(c, offset)
    if offset >= c.left then return nil end
    local length = number(c, offset, 1)
    if offset + 1 + length > c.left then return nil end
    return length > 0 and c.tvb:raw(c.at + offset + 1, length) or "", 1 + length
end

local function configuration(c)
    if c.left < 5 then return nil, MORE end
    local length = number(c, 1, 4)
    if length > 4096 then return opaque(c, c.left) end
    if c.left < 5 + length then return nil, 5 + length end
    local name = length > 0 and c.tvb:raw(c.at + 5, length) or ""
    add(c, 'CONFIGURATION "' .. name .. '"', 5 + length, SECTION, 1, false, 4, MACHINE, length)
    return 5 + length
end

local function subsection(c) -- only those of CONFIGURATION, whose contents are known
    local name, size = counted_string(c, 1)
    if not name or c.left < size + 5 then return nil, MORE end
    local total = 1 + size + 4
    if name == "configuration/target-page-bits" then total = total + 4 end
    if name == "configuration/uuid" then total = total + 16 end
    if name == "configuration/capabilities" then
        if c.left < total + 4 then return nil, MORE end
        local count = number(c, total, 4)
        total = total + 4
        for _ = 1, count do
            local capability, more = counted_string(c, total)
            if not capability then return nil, MORE end
            total = total + more
        end
    end
    if c.left < total then return nil, total end
    add(c, name, total, SECTION, 1, false, 1, ID_STRING, size - 1, SECTION_VERSION, 4)
    return total
end

local function command(c)
    if c.left < 5 then return nil, MORE end
    local kind, length = number(c, 1, 2), number(c, 3, 2)
    if c.left < 5 + length then return nil, 5 + length end
    local name = COMMANDS[kind] or string.format("command %d", kind)
    if (kind == 2 or kind == 7) and length == 4 then name = name .. " " .. number(c, 5, 4) end
    add(c, name, 5 + length, SECTION, 1, COMMAND, 2, COMMAND_LENGTH, 2, length == 4 and VALUE or OPAQUE, length)
    return 5 + length
end

local function section(c)
    if c.left < 5 then return nil, MORE end
    local kind, id = number(c, 0, 1), number(c, 1, 4)
    local name, size = nil, 0
    if kind == 1 or kind == 4 then
        name, size = counted_string(c, 5)
        if not name or c.left < 5 + size + 8 then return nil, MORE end
        c.stream.sections[id] = name
    end
    local label = SECTIONS[kind] .. " " .. (c.stream.sections[id] or string.format("(id %d)", id))
    local total = name and 5 + size + 8 or 5
    local tree = add(c, label, total, SECTION, 1, SECTION_ID, 4)
    if name then
        tree:add(ID_STRING, c.tvb(c.at + 6, size - 1))
        tree:add(INSTANCE, c.tvb(c.at + 5 + size, 4))
        tree:add(SECTION_VERSION, c.tvb(c.at + 9 + size, 4))
    end
    c.state.section = id
    return total
end

local function footer(c)
    if c.left < 5 then return nil, MORE end
    add(c, "FOOTER", 5, SECTION, 1, SECTION_ID, 4)
    c.state.section = nil
    return 5
end

local function description(c)
    if c.left < 5 then return nil, MORE end
    local length = number(c, 1, 4)
    local tree = add(c, string.format("VMDESCRIPTION (%d bytes)", length), 5 + length, SECTION, 1)
    if c.left >= 5 + length then add_json(c, tree, 5, length) end
    return pass_over(c, 5, length)
end

local function end_of_file(c)
    add(c, "EOF", 1, SECTION, 1)
    return 1
end

-- Is there, at the start of a segment that may be device data, something that can't well be anything but framing?
local function surely_framing(c)
    if c.left < 5 then return false end
    local kind, first, second = number(c, 0, 1), number(c, 1, 2), number(c, 3, 2)
    if kind == 8 then return COMMAND_LENGTHS[first] == second and c.left >= 5 + second end
    if kind == 2 or kind == 3 then return first == 0 and c.stream.sections[second] ~= nil end
    local name = (kind == 1 or kind == 4) and first == 0 and counted_string(c, 5)
    return name and name:find("^[%w%p ][%w%p ]+$") ~= nil
end

local PARTS = {
    [0] = end_of_file, section, section, section, section, subsection, description, configuration, command,
    [0x7E] = footer,
}

local function v1(c)
    c.family = "v1"
    local id = c.state.section
    if id then -- device data ends at the footer of its section: 7e, be32 id, and then a section type or nothing
        local bytes, mark = c.tvb:raw(c.at, c.left), string.char(0x7E) .. Struct.pack(">I4", id)
        local found = bytes:find(mark, 1, true)
        while found and found + 5 <= #bytes and bytes:byte(found + 5) > 8 do
            found = bytes:find(mark, found + 1, true)
        end
        if found == 1 then return footer(c) end
        if found then return opaque(c, found - 1) end
        if c.at > 0 or not surely_framing(c) then
            local cut = math.min(4, #bytes) -- does the footer begin here and end in the next segment?
            while cut > 0 and bytes:sub(-cut) ~= mark:sub(1, cut) do cut = cut - 1 end
            if cut == c.left then return nil, MORE end
            return opaque(c, c.left - cut)
        end
        c.state.section = nil
    end
    return (PARTS[number(c, 0, 1)] or opaque)(c, c.left)
end

local function return_path(c)
    c.family = "v1"
    if c.left < 4 then return nil, MORE end
    local kind, length = number(c, 0, 2), number(c, 2, 2)
    if kind == 0 and c.stream.v2 then return frame(c) end -- the length of a frame begins with two zeros
    if not REPLIES[kind] or length > 512 then return opaque(c, c.left) end
    local total = 4 + length
    if kind == 5 then -- outside the message: be64 size, bitmap, be64 end mark
        if c.left < total + 8 then return nil, MORE end
        total = total + 16 + c.tvb(c.at + total, 8):uint64():tonumber()
    end
    if c.left < total then return nil, total end
    local name = REPLIES[kind]
    if length == 4 then name = name .. " " .. number(c, 4, 4) end
    add(c, name, total, REPLY, 2, COMMAND_LENGTH, 2, length == 4 and VALUE or OPAQUE, total - 4)
    return total
end

-- multifd -------------------------------------------------------------------------------------------------------------

local function initial_packet(c)
    c.family = "multifd"
    if c.left < 64 then return nil, 64 end
    add(c, "initial packet of channel " .. number(c, 24, 1), 64, MAGIC, 4, VERSION, 4, UUID, 16, MULTIFD_ID, 1)
    c.state.mode = "multifd"
    return 64
end

local function multifd(c)
    c.family = "multifd"
    if c.left < 16 then return nil, MORE end
    local flags, pages = number(c, 8, 4), number(c, 12, 4)
    local is_device = math.floor(flags / 64) % 2 == 1
    if number(c, 0, 4) ~= 0x11223344 or (pages > 65536 and not is_device) then return opaque(c, c.left) end
    local length = is_device and 276 or 320 + 8 * pages
    if c.left < length then return nil, length end
    local size, name = number(c, is_device and 272 or 20, 4), c.tvb(c.at + (is_device and 12 or 64), 256):stringz()
    local label = is_device and "device state" or flags % 2 == 1 and "SYNC" or "pages"
    label = name ~= "" and label .. " of " .. name or label
    label = size > 0 and string.format("%s (%d bytes)", label, size) or label
    if is_device then
        add(c, label, 276 + size, MAGIC, 4, VERSION, 4, MULTIFD_FLAGS, 4, ID_STRING, 256, INSTANCE, 4, NEXT_SIZE, 4)
    else
        add(c, label, length + size, MAGIC, 4, VERSION, 4, MULTIFD_FLAGS, 4, PAGES_ALLOC, 4, PAGES, 4, NEXT_SIZE, 4,
            PACKET, 8, ZEROS, 4, false, 28, ID_STRING, 256)
    end
    return pass_over(c, length, size)
end

-- the door ------------------------------------------------------------------------------------------------------------

-- After CHANNEL_OPEN a multifd channel may begin with either of its packets: only the initial one has 39 zeros at 25.
local function raw(c)
    if c.left < 4 then return nil, MORE end
    local magic = number(c, 0, 4)
    if magic ~= 0x11223344 then
        c.state.mode = magic == 0x5145564D and "start" or "opaque"
        return nil, 0
    end
    if c.left < 64 then return nil, 64 end
    c.state.mode = "multifd"
    local initial = c.tvb:raw(c.at + 25, 39) == string.rep("\0", 39)
    return (initial and initial_packet or multifd)(c)
end

local function start(c)
    if c.left < 4 then return nil, MORE end
    local magic = number(c, 0, 4)
    if magic == 0x11223344 then return initial_packet(c) end
    if magic - magic % 256 == 0x89514D00 and ROLES[magic % 256] then return preface(c) end
    if magic == 0x5145564D then
        c.family = "v1"
        if c.left < 8 then return nil, 8 end
        add(c, "QEVM " .. number(c, 4, 4), 8, MAGIC, 4, VERSION, 4)
        c.state.mode = "v1"
        return 8
    end
    -- Neither answers nor the postcopy-preempt channel have a magic.
    c.state.mode = c.from_source and "opaque" or c.stream.v2 and "v2" or "return"
    return nil, 0
end

local PARSERS = {
    start = start, raw = raw, v2 = frame, v1 = v1, multifd = multifd, ["return"] = return_path,
    opaque = function(c) return opaque(c, c.left) end,
}

-- streams[key] is a connection; remembered[key] is the state in which a call began, since Wireshark dissects a packet
-- again whenever it is looked at; shown[frame] is what the Info column says, call by call.
local streams, remembered, shown = {}, {}, {}
function proto.init() streams, remembered, shown = {}, {}, {} end

local function copy(state)
    local new = {}
    for name, value in pairs(state) do new[name] = value end
    return new
end

local function stream_of(pinfo, key)
    if not streams[key] then
        local answers = pinfo.src_port == PORT -- on any other port: the source always speaks first
        streams[key] = { source_port = answers and pinfo.dst_port or pinfo.src_port, sections = {} }
        for _, side in ipairs({ true, false }) do streams[key][side] = { mode = "start", skip = 0 } end
    end
    return streams[key]
end

-- Is this packet the first after the missing rest of a body? The sequence number would say it, but a first pass in
-- Wireshark has no protocol tree, thus no tcp.seq_raw; so the packet itself is asked whether a header begins here.
local function begins_anew(c)
    if c.left < 12 then return false end
    local length, kind = number(c, 0, 4), number(c, 4, 1)
    if c.state.mode == "multifd" then return length == 0x11223344 and number(c, 4, 4) == 1 end
    if c.state.mode ~= "v2" or length > MAX_FRAME or not V2_TYPES[kind] or number(c, 5, 1) > 3 then return false end
    return kind == 0x40 or 12 + length <= c.left
end

local function show(c, call)
    local calls, text, family = shown[c.pinfo.number] or {}, "", nil
    shown[c.pinfo.number] = calls
    if not calls[call] then calls[#calls + 1] = call end
    calls[call] = { family = c.family, text = table.concat(c.labels, ", ") }
    for _, each in ipairs(calls) do
        local part = calls[each]
        if part.text ~= "" then
            local head = part.family and part.family ~= family and part.family .. " " or ""
            text, family = text .. (text == "" and "" or ", ") .. head .. part.text, part.family
        end
    end
    c.pinfo.cols.protocol = "QEMU"
    if text ~= "" then c.pinfo.cols.info = text end
end

local function walk(c, may_wait)
    local length = c.tvb:len()
    while c.at < length do
        c.left = length - c.at
        local taken, need
        if c.state.skip > 0 and c.at == 0 and begins_anew(c) then c.state.skip = 0 end
        if c.state.skip > 0 then
            taken = math.min(c.state.skip, c.reported - c.at)
            opaque(c, taken, string.format("%d bytes of a body", taken))
            c.state.skip = c.state.skip - taken
        else
            taken, need = PARSERS[c.state.mode](c)
        end
        if need and need > 0 and may_wait then
            c.pinfo.desegment_offset, c.pinfo.desegment_len = c.at, need == MORE and MORE or need - c.left
            return
        end
        c.at = c.at + (taken or need > 0 and opaque(c, c.left) or 0)
    end
end

local function dissect(tvb, pinfo, tree, may_wait)
    local from, to = tostring(pinfo.src) .. " " .. pinfo.src_port, tostring(pinfo.dst) .. " " .. pinfo.dst_port
    local key = from < to and from .. " " .. to or to .. " " .. from
    local stream = stream_of(pinfo, key)
    -- Wireshark's own TLS dissector comes back here, by way of tls.port, with what it could decrypt.
    local is_record = tvb:len() > 1 and tvb(0, 1):uint() >= 0x14 and tvb(0, 1):uint() <= 0x17 and tvb(1, 1):uint() == 3
    if is_record and (stream.tls or stream[true].mode == "start") then
        stream.tls = true
        tls:call(tvb, pinfo, tree)
        return tvb:len()
    end
    local side = pinfo.src_port == stream.source_port
    local call = string.format("%d/%s/%d/%d", pinfo.number, key, tvb:reported_len(), tvb:offset())
    local again = remembered[call]
    if not again then remembered[call] = copy(stream[side]) end
    local c = { tvb = tvb, pinfo = pinfo, tree = tree, stream = stream, from_source = side, labels = {}, at = 0,
        state = copy(remembered[call]), reported = tvb:reported_len() }
    walk(c, may_wait and tvb:len() == c.reported)
    if not again then stream[side] = c.state end
    show(c, call)
    return tvb:len()
end

function proto.dissector(tvb, pinfo, tree) return dissect(tvb, pinfo, tree, pinfo.can_desegment > 0) end

local function looks_right(tvb, pinfo, tree)
    if tvb:len() < 8 then return false end
    local first, second = tvb(0, 4):uint(), tvb(4, 4):uint()
    local is_v1 = first == 0x5145564D or (first == 0x11223344 and second == 1)
    if not is_v1 and (second ~= 0x0D0A1A0A or first - first % 256 ~= 0x89514D00) then return false end
    pinfo.conversation = proto
    dissect(tvb, pinfo, tree, true)
    return true
end

proto:register_heuristic("tcp", looks_right)
DissectorTable.get("tcp.port"):add(PORT, proto)
DissectorTable.get("tls.port"):add(PORT, proto)
