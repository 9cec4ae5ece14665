-- Ready's sentence says where a run stands. A status of an older generation says nothing about this one.
if obj.status == nil or obj.status.conditions == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "The operator has not seen this version of the run yet." }
end

local holds = {}
local message = ""
for _, condition in ipairs(obj.status.conditions) do
  if condition.type == "Ready" then
    message = condition.message
  end
  if condition.status == "True" then
    holds[condition.type] = condition.reason
  end
end

local status = "Progressing"
if holds.Stalled ~= nil then
  status = "Degraded"
elseif holds.Suspended ~= nil then
  status = "Suspended"
elseif holds.Ready ~= nil then
  status = "Healthy"
end
return { status = status, message = message }
