-- What the interface `state` does, in the server, so that it is atomic and one round trip. A call of this script is a call of a policy.
--
-- KEYS: the entries. ARGV[1]: the operation. ARGV[2]: milliseconds since 1970, or '' for this server's clock. The rest is each operation's own.
-- The answer is a pair: 'ok' and what was asked for, 'refused' and where and for how long, or 'unavailable' and why.
--
-- An entry is a hash. `v`: the value, or the counter in decimal digits. Or `n` and `a`: a token bucket, how many billionths of a token it had, and
-- when. `e`: when it ends, in milliseconds since 1970; absent if never. The server removes it GRACE_MS later.

-- Whether an entry has ended is decided here, by one clock reading, and not by the server's own expiry.
local GRACE_MS = 60000
-- What is further away than a double can say is never.
local END_OF_TIME_MS = 9007199254740992
local NEVER = '18446744073709551615'

local operation = ARGV[1]
local now = tonumber(ARGV[2])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Whole numbers of any size: lists of digits to the base of a million, the lowest first. Doubles are exact up to 2^53, and a bucket may hold
-- 2^62 billionths. A factor or divisor is below 2^32, so that it times the base is exact.
local BASE = 1000000

local function big(decimal)
    local n = {}
    for last = #decimal, 1, -6 do
        n[#n + 1] = tonumber(decimal:sub(math.max(1, last - 5), last))
    end
    return n
end

local function decimal(n)
    local digits = {}
    for place = #n, 1, -1 do
        digits[#digits + 1] = string.format('%06d', n[place])
    end
    local text = table.concat(digits):gsub('^0+', '')
    return text == '' and '0' or text
end

local function less(a, b)
    for place = math.max(#a, #b), 1, -1 do
        local x, y = a[place] or 0, b[place] or 0
        if x ~= y then
            return x < y
        end
    end
    return false
end

local function plus(a, b)
    local sum, carry = {}, 0
    for place = 1, math.max(#a, #b) do
        local x = (a[place] or 0) + (b[place] or 0) + carry
        sum[place] = x % BASE
        carry = x >= BASE and 1 or 0
    end
    sum[#sum + 1] = carry
    return sum
end

-- `a` is not less than `b`.
local function minus(a, b)
    local rest, borrow = {}, 0
    for place = 1, math.max(#a, #b) do
        local x = (a[place] or 0) - (b[place] or 0) - borrow
        rest[place] = x % BASE
        borrow = x < 0 and 1 or 0
    end
    return rest
end

local function times(n, factor)
    local product, carry = {}, 0
    for place = 1, #n do
        local x = n[place] * factor + carry
        product[place] = x % BASE
        carry = math.floor(x / BASE)
    end
    while carry > 0 do
        product[#product + 1] = carry % BASE
        carry = math.floor(carry / BASE)
    end
    return product
end

-- Rounded up.
local function over(n, divisor)
    local quotient, rest = {}, 0
    for place = #n, 1, -1 do
        local x = rest * BASE + n[place]
        rest = x % divisor
        quotient[place] = (x - rest) / divisor
    end
    return rest > 0 and plus(quotient, { 1 }) or quotient
end

local function least(a, b)
    return less(a, b) and a or b
end

-- Of so many tokens, in billionths.
local function tokens(count)
    return times({ 0, 1000 }, count)
end

-- Milliseconds until so much has come in, rounded up; nil if it never has.
local function time_for(n, bucket)
    if not less({}, n) then
        return {}
    end
    if bucket.rate == 0 then
        return nil
    end
    return over(over(times(n, bucket.per), bucket.rate), BASE)
end

-- Ends at this time, or never.
local function ends(key, at)
    if at and at < END_OF_TIME_MS then
        redis.call('HSET', key, 'e', string.format('%.0f', at))
        redis.call('PEXPIRE', key, string.format('%.0f', math.max(0, at - now) + GRACE_MS))
    else
        redis.call('HDEL', key, 'e')
        redis.call('PERSIST', key)
    end
end

local function after(ttl_seconds)
    return ttl_seconds ~= '' and now + ttl_seconds * 1000 or nil
end

local function has_ended(e)
    return e and tonumber(e) <= now
end

local function get(key)
    local entry = redis.call('HMGET', key, 'v', 'n', 'e')
    if has_ended(entry[3]) then
        return { 'ok', false }
    end
    if entry[2] then
        return { 'unavailable', 'bucket' }
    end
    return { 'ok', entry[1] }
end

-- ARGV[3]: the value. ARGV[4]: seconds, or ''.
local function set(key)
    redis.call('DEL', key)
    redis.call('HSET', key, 'v', ARGV[3])
    ends(key, after(ARGV[4]))
    return { 'ok', false }
end

-- Text of a number as other stores take it: with a plus, with zeros before it.
local function plain(value)
    local sign, digits = value:match('^([+-]?)0*(%d+)$')
    if not digits then
        return nil
    end
    return (sign == '-' and digits ~= '0') and '-' .. digits or digits
end

-- ARGV[3]: how much. ARGV[4]: seconds, or ''.
local function increment(key)
    local by = ARGV[3]
    local entry = redis.call('HMGET', key, 'v', 'n', 'e')
    if has_ended(entry[3]) then
        redis.call('DEL', key)
        entry = {}
    end
    if entry[2] then
        return { 'unavailable', 'bucket' }
    end
    local value = entry[1] or '0'
    local number = plain(value)
    -- The server's own arithmetic has 64 bits, and says whether this is a number of so many.
    if not number or #number > 20 then
        return { 'unavailable', 'no number' }
    end
    if number ~= value then
        redis.call('HSET', key, 'v', number)
    end
    local added = redis.pcall('HINCRBY', key, 'v', by)
    if type(added) == 'table' and added.err then
        if not added.err:find('overflow', 1, true) then
            redis.call('HSET', key, 'v', value)
            return { 'unavailable', 'no number' }
        end
        local at_the_end = by:sub(1, 1) == '-' and '-9223372036854775808' or '9223372036854775807'
        redis.call('HSET', key, 'v', at_the_end)
    end
    if not entry[1] then
        ends(key, after(ARGV[4]))
    end
    -- As text: numbers of this language are doubles.
    return { 'ok', redis.call('HGET', key, 'v') }
end

-- ARGV from 3 on: four numbers a bucket. With `take` all or nothing; else the cost is given back.
local function change(take)
    local buckets, levels = {}, {}
    for place, key in ipairs(KEYS) do
        local first = 3 + (place - 1) * 4
        local bucket = {
            rate = tonumber(ARGV[first + 1]),
            per = math.max(1, tonumber(ARGV[first + 2])),
            full = tokens(tonumber(ARGV[first + 3])),
        }
        local cost = tokens(tonumber(ARGV[first]))
        local level, gained = levels[key], {}
        if not level then
            local entry = redis.call('HMGET', key, 'n', 'a', 'e', 'v')
            if has_ended(entry[3]) then
                redis.call('DEL', key)
                entry = {}
            end
            if entry[4] then
                return { 'unavailable', 'value' }
            end
            level = entry[1] and big(entry[1]) or bucket.full
            -- A clock that was set back adds nothing and takes nothing.
            local elapsed = entry[2] and math.max(0, now - entry[2]) or 0
            gained = times(big(string.format('%.0f', elapsed)), bucket.rate)
            table.insert(gained, 1, 0)
            gained = over(gained, bucket.per)
        end
        level = least(plus(level, gained), bucket.full)
        if not take then
            level = least(plus(level, cost), bucket.full)
        elseif not less(level, cost) then
            level = minus(level, cost)
        else
            local wait = not less(bucket.full, cost) and time_for(minus(cost, level), bucket)
            return { 'refused', (place - 1) .. ' ' .. (wait and decimal(wait) or NEVER) }
        end
        levels[key] = level
        buckets[key] = bucket
    end
    for key, level in pairs(levels) do
        local bucket = buckets[key]
        redis.call('HSET', key, 'n', decimal(level), 'a', string.format('%.0f', now))
        -- A full bucket is one that was never used.
        local wait = time_for(minus(bucket.full, level), bucket)
        ends(key, wait and now + tonumber(decimal(wait)) + 1)
    end
    return { 'ok', false }
end

if operation == 'get' then
    return get(KEYS[1])
elseif operation == 'set' then
    return set(KEYS[1])
elseif operation == 'delete' then
    redis.call('DEL', KEYS[1])
    return { 'ok', false }
elseif operation == 'increment' then
    return increment(KEYS[1])
else
    return change(operation == 'take')
end
